# The published settings: ResNet-38 at stride 8 and DeepLab-v2, for a GPU.
CLS_FLAGS ?= --config $(CURDIR)/../recipes/psa.toml --batch-size 8
MIXUP_FLAGS ?= --alpha 0.2
MANIFOLD_FLAGS ?= --alpha 0.2 --mix-at input,b2,b3,b4,b5,b6
FMIX_FLAGS ?= --alpha 1 --epochs 25
SUBCATEGORY_FLAGS ?= --subcategory-weight 1
EXPLORATION_CLUSTERS ?= finch
TEACHING_CLUSTERS ?= finch
TEACHER_FLAGS ?= --crop-size 224 --lr 0.1 --head-lr-factor 1 --warmup 500 --epochs 20
FEATURE_FLAGS ?=
CAM_FLAGS ?= --alignment cells
AFF_FLAGS ?= --net wsss:resnet38 --freeze b2 --freeze-bn all --optimizer sgd --lr 0.1 --head-lr-factor 10 --bias-lr-factor 2 \
	--weight-decay 5e-4 --crop-size 448
WALK_FLAGS ?= --background none
CRF_FLAGS ?= --preset irn
CRF_VALUES ?= 0.2 0.3 0.4
WALKED_VALUES ?= 0.3 0.4 0.5
SEG_FLAGS ?= --config $(CURDIR)/../recipes/deeplab-v2.toml --weights $(SEG_WEIGHTS)
SEGMENT_FLAGS ?= --crf deeplab

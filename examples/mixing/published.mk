# The settings of the paper's released code, for a GPU: ResNet-38 at stride 8, AffinityNet and DeepLab-v2. Where the paper
# says something else, the paper's. The options are spelled out: recipes/psa.toml has no section for mixed samples.
# The code trains with PSA's optimiser: without momentum (5e-4, by its slip), and with a rate that hardly falls, since it
# counts on 100,000 steps. It keeps the best pass by its score on val; here the last one is kept.
PASSES = $(if $(filter train_aug,$(TRAIN)),20,$(1))
CLS_FLAGS ?= --net wsss:resnet38 --freeze b2 --freeze-bn all --dropout 0.5 --epochs $(call PASSES,15) --batch-size 8 \
	--lr $(if $(filter train_aug,$(TRAIN)),0.05,0.1) --head-lr-factor 1 --momentum 5e-4 --schedule constant \
	--weight-decay 5e-4 --clip 1 --crop-size 300 --long-side 256,512
MIXUP_FLAGS ?= --alpha 0.2
MANIFOLD_FLAGS ?= --alpha 0.2 --mix-at input,b2,b3,b4,b5,b6
FMIX_FLAGS ?= --alpha 1 --epochs $(call PASSES,25)
# The paper's weight; the code has 2.
SUBCATEGORY_FLAGS ?= --subcategory-weight 1
EXPLORATION_CLUSTERS ?= finch
TEACHING_CLUSTERS ?= finch
# Its schedule takes one step a pass, so the rate still rises when the training ends: by 0.0002 a pass of 183 steps.
TEACHER_FLAGS ?= --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --crop-size 224 --long-side 256,512 --epochs 20 \
	--batch-size 8 --lr 0.1 --head-lr-factor 1 --weight-decay 0 --schedule constant --warmup 91500 --clip 1
FEATURE_FLAGS ?=
TEACHER_FEATURE_FLAGS ?= --size 224
CAM_FLAGS ?= --alignment cells
# As AffinityNet's code has it, but for the paper's batches of 2.
AFF_FLAGS ?= --net wsss:resnet38 --freeze b2 --freeze-bn all --optimizer sgd --lr 0.1 --momentum 5e-4 --batch-size 2 \
	--head-lr-factor 10 --bias-lr-factor 2 --weight-decay 5e-4 --crop-size 448
# PSA's background, (1 - max map)^16, walks along; here it is chosen after the walk, on the truth of train.
WALK_FLAGS ?= --background none
CRF_FLAGS ?= --preset irn
CRF_VALUES ?= 0.2 0.3 0.4
WALKED_VALUES ?= 0.3 0.4 0.5
# No library has weights of caffe's ResNet-101 by a tag: bring a file. DeepLab's code starts from COCO's masks, which is
# pixel supervision.
SEG_WEIGHTS ?= resnet101_caffe.pth
SEG_FLAGS ?= --config $(CURDIR)/../recipes/deeplab-v2.toml --batch-size 2 --accumulate 1 --weights "$(SEG_WEIGHTS)"
SEGMENT_FLAGS ?= --config $(CURDIR)/../recipes/deeplab-v2.toml

# The settings of the author's released code, for a GPU: ResNet-38 at stride 8, AffinityNet and DeepLab-v2. Where paper and
# code differ the code's, which made the numbers. tests/published/mixing.toml has the source of every value.
# The code trains with PSA's optimiser: without momentum (5e-4, by its slip), and with a rate that hardly falls, since it
# counts on 100,000 steps. It keeps the pass that is best on val; here the last one is kept.
SBD ?= benchmark_RELEASE
WEIGHTS ?= resnet38_imagenet.pth
RECIPES := $(CURDIR)/../recipes
AUG := $(filter train_aug,$(TRAIN))
PASSES = $(if $(AUG),20,$(1))
CLS_FLAGS ?= --net wsss:resnet38 --freeze b2 --freeze-bn all --dropout 0.5 --epochs $(call PASSES,15) --batch-size 8 \
	--lr $(if $(AUG),0.05,0.1) --head-lr-factor 1 --bias-lr-factor 1 --optimizer sgd --momentum 5e-4 --schedule constant \
	--weight-decay 5e-4 --clip 1 --crop-size 300 --long-side 256,512 --colour-jitter 0.3,0.3,0.3,0.1 --precision fp16
# For mixed samples the code takes the self-entropy of the targets, which has no gradient: a weight of 0.
MIXUP_FLAGS ?= --alpha 0.2 --lambda-ent 0 --lambda-con 2e-4
MANIFOLD_FLAGS ?= --alpha 0.2 --lambda-ent 0 --lambda-con 2e-4 --mix-at input,b2,b3,b4,b5,b6
FMIX_FLAGS ?= --alpha 1 --lambda-ent 0 --lambda-con 2e-4 --fmix-spectrum released --epochs $(call PASSES,25)
# The code's weight of the sub-categories; eq. 3 prints 1. Exploration has SC-CAM's rate, crop and passes.
EXPLORATION_FLAGS ?= --subcategory-weight 2 --lr 0.01 --crop-size 224 --epochs 61
TEACHING_FLAGS ?= --subcategory-weight 2
# The code clusters the images of train and val together. Of train_aug it made no clusters; there it is that list alone.
CLUSTERED ?= $(if $(filter train,$(TRAIN)),trainval,$(TRAIN))
EXPLORATION_CLUSTERS ?= finch --purity-filter
TEACHING_CLUSTERS ?= finch --purity-filter
TEACHER ?= timm:vit_base_patch16_224
TEACHER_WEIGHTS ?= augreg_in21k_ft_in1k
# Its schedule takes one step a pass, so the rate still rises when the training ends: by 0.0002 a pass of 183 steps (train).
TEACHER_FLAGS ?= --pool class-token --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --crop-size 224 --long-side 256,512 \
	--colour-jitter 0.3,0.3,0.3,0.1 --epochs 25 --batch-size 8 --lr 0.1 --head-lr-factor 1 --optimizer sgd --momentum 0.9 \
	--weight-decay 0 --schedule constant --warmup 91500 --clip 1 --precision fp16
FEATURE_FLAGS ?= --size 224
TEACHER_FEATURE_FLAGS ?= --size 224 --pool class-token
CAM_FLAGS ?= --scales 0.5,1.0,1.5,2.0 --flip --alignment cells
EVAL_FLAGS ?= --background constant:0.15
# AffinityNet's code as it is, but for the paper's batches of 2; its background walks along.
AFF_FLAGS ?= --config $(RECIPES)/psa-as-released.toml --batch-size 2
WALK_FLAGS ?= --config $(RECIPES)/psa-as-released.toml
WALKED_VALUES ?=
# No row of the paper has a CRF; the targets crf-% choose its background on the truth of train.
CRF_FLAGS ?= --preset irn
CRF_VALUES ?= 0.2 0.3 0.4
# DeepLab's code starts from weights that were trained on COCO's masks, which is pixel supervision. It takes 20,000 steps.
SEG_FROM ?= walked
SEG_WEIGHTS ?= deeplabv1_resnet101_coco.pth
SEG_FLAGS ?= --config $(RECIPES)/deeplab-v2.toml --batch-size 2 --accumulate 1 --weights "$(SEG_WEIGHTS)"
SEGMENT_FLAGS ?= --config $(RECIPES)/deeplab-v2.toml
ROUND_FEATURES ?= --config $(RECIPES)/sc-cam.toml
ROUND_CLUSTERS ?= kmeans --config $(RECIPES)/sc-cam.toml
ROUND_FLAGS ?= --config $(RECIPES)/sc-cam.toml
ROUND_CAM_FLAGS ?= --config $(RECIPES)/sc-cam.toml

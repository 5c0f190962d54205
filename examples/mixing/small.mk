# Networks that train on two CPU cores in minutes, for some hundred photographs.
include ../precision.mk
NET := --net torchvision:mobilenet_v2 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --stride 16 --freeze features.3
SBD ?=
WEIGHTS ?=
CLUSTERED ?= $(TRAIN)
CLS_FLAGS ?= $(NET) --epochs 8 --colour-jitter 0.3,0,0,0 --precision $(PRECISION)
MIXUP_FLAGS ?= --alpha 0.2
MANIFOLD_FLAGS ?= --alpha 0.2 --mix-at input,features.3,features.6,features.10,features.13
FMIX_FLAGS ?= --alpha 1
EXPLORATION_FLAGS ?= --subcategory-weight 1
TEACHING_FLAGS ?= --subcategory-weight 1
EXPLORATION_CLUSTERS ?= finch
TEACHING_CLUSTERS ?= finch
# Not a vision transformer: the teacher is the same network, which sees the photographs larger.
TEACHER := torchvision:mobilenet_v2
TEACHER_WEIGHTS ?=
TEACHER_WEIGHTS := $(or $(TEACHER_WEIGHTS),$(WEIGHTS))
TEACHER_FLAGS ?= --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --stride 16 --freeze features.3 --epochs 6 --crop-size 321 \
	--long-side 320,480 --colour-jitter 0.3,0.3,0.3,0.1 --precision $(PRECISION)
FEATURE_FLAGS ?=
TEACHER_FEATURE_FLAGS ?=
# Without scale 2, which takes more than half of the time: 39.5 for 40.4 (every fifth image of train).
CAM_FLAGS ?= --shard-size 64 --scales 0.5,1.0,1.5 --precision $(PRECISION)
EVAL_FLAGS ?=
# These maps are surer of less than PSA's: at alpha 4 a third of all cells counts as a class, and 45 of 100 of them
# rightly; at 2 it is 59 of 100, at 1 it is 78 of 100 (235 images of train, scored on their truth).
AFF_FLAGS ?= $(NET) --low-alpha 1.5 --epochs 3 --colour-jitter 0.3,0.3,0.3,0.1 --precision $(PRECISION)
WALK_FLAGS ?= --beta 4 --steps 16 --background none --precision $(PRECISION)
CRF_FLAGS ?= --preset irn
CRF_VALUES ?= 0.32
WALKED_VALUES ?= 0.5
SEG_FROM ?= refined
SEG_FLAGS ?= $(NET) --weights "$(@D)/cam.safetensors" --colour-jitter 0.3,0.3,0.3,0 --precision $(PRECISION)
SEGMENT_FLAGS ?= --shard-size 64 --scales 0.75,1.0,1.25 --crf deeplab
ROUND_FEATURES ?=
ROUND_CLUSTERS ?= $(EXPLORATION_CLUSTERS)
ROUND_FLAGS ?= $(CLS_FLAGS) $(EXPLORATION_FLAGS)
ROUND_CAM_FLAGS ?= $(CAM_FLAGS)

# A MobileNet-v2 for some hundred photographs on two CPU cores: the plain classifier, its CRF, and CSD on these masks.
# An epoch of csd takes about three times as long as one of cam.
include ../precision.mk
BASES := cam
LEARN ?= $(TRAIN)
SBD ?=
SMALL_NET ?= --net torchvision:mobilenet_v2 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --stride 16 --freeze features.3
BASE.cam := cam
WEIGHTS.cam ?= $(if $(WEIGHTS),--weights "$(WEIGHTS)")
NET_FLAGS.cam ?= $(SMALL_NET) --epochs 8 --colour-jitter 0.3,0,0,0 --precision $(PRECISION)
CSD_FLAGS.cam ?=
MAPS.cam := cnn
CAM_FLAGS.cam ?= --shard-size 64 --scales 0.5,1.0,1.5 --precision $(PRECISION)
AFFINITY.cam :=
REFINE.cam := crf
REFINE_FLAGS.cam ?= --preset irn --background constant:0.32
BACKGROUND.cam :=
SEG_FLAGS.cam ?= $(SMALL_NET) --weights "$(@D)/net.safetensors" --colour-jitter 0.3,0.3,0.3,0 --precision $(PRECISION)
SEGMENT_FLAGS.cam ?= --shard-size 64 --scales 0.75,1.0,1.25 --crf deeplab

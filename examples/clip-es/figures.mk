# Figures 3, 4, 5 and S2 of CLIP-ES, the frequency row of table S3, and the test column of table 4. README.md says which
# target is which. A figure of images has IMAGES of them, evenly spread over TRAIN, or those of IDS, separated by commas.
IMAGES ?= 6
IDS ?=
WORST ?= 4
chosen = $(if $(IDS),--ids $(IDS),--count $(IMAGES))
by_images := $(call given,IMAGES IDS)

# Figure 3: the paper doesn't say which 20 of ImageNet's templates it drew, nor which maps it scored.
ADOPTED ?= a clean origami {}.
PROMPTS ?= 20
PROMPTS_SEED ?= 0
PROMPTS_MAPS ?= caa
PROMPT_RESULTS := $(patsubst %,$(O)/prompt-%.json,$(shell seq 0 $(PROMPTS)))
sharpness = "$(WSSS)" prompts "$<" --clip $(CLIP) --weights $(WEIGHTS) --templates '$(1)' --json $(told)
$(O)/sharpness.json: $(O)/train.h5 $(by_clip)
	$(call sharpness,imagenet)
$(O)/sharpness-adopted.json: $(O)/train.h5 $(by_clip) $(call given,ADOPTED)
	$(call sharpness,$(ADOPTED))
$(O)/templates.txt: $(O)/sharpness.json $(call given,ADOPTED PROMPTS PROMPTS_SEED)
	"$(PYTHON)" ../pick_templates.py $< --count $(PROMPTS) --seed $(PROMPTS_SEED) --first '$(ADOPTED)' -o $@
$(PROMPT_RESULTS): $(O)/prompt-%.json: $(O)/templates.txt $(call given,PROMPTS_MAPS)
	template=$$(sed -n "$$(($* + 1))p" $<) && "$(WSSS)" cams clip-es "$(O)/train.h5" $(clip) $(maps.$(PROMPTS_MAPS)) \
		--template "$$template" -o "$(O)/prompt-$*" >/dev/null
	"$(WSSS)" eval "$(O)/prompt-$*" --background sweep-power -q -o $@
$(O)/figure3.png: $(PROMPT_RESULTS) $(O)/sharpness.json $(O)/sharpness-adopted.json
	"$(PYTHON)" ../plot_prompts.py --sharpness $(O)/sharpness.json $(O)/sharpness-adopted.json \
		--templates $(O)/templates.txt --results $(PROMPT_RESULTS) \
		--title 'Sharpness of a prompt and mIoU of its maps, $(TRAIN)' -o $@
figure3: $(O)/figure3.png ## figure 3: mIoU over sharpness of ADOPTED and PROMPTS of ImageNet's templates
	@cat $(O)/figure3.csv && echo "$<"

# Figure 4, without CLIMS: its masks are another system's. The third column leaves out what CGL ignores. The bad cases
# are the WORST images by their own mIoU.
sure = "$(WSSS)" pseudo "$(O)/caa-crf" --min-confidence $(1) -o "$(O)/sure-$(1)" >/dev/null && \
	"$(WSSS)" export png "$(O)/sure-$(1)" --force -o "$(O)/sure-$(1)-png" >/dev/null
CONFIDENCES ?= 0.5 0.8 0.95
FIGURE4_CONFIDENCE ?= 0.95
SURE := $(sort 0 $(FIGURE4_CONFIDENCE) $(CONFIDENCES))
$(SURE:%=$(O)/sure-%.made): $(O)/sure-%.made: $(O)/caa-crf.tsv
	$(call sure,$*)
	@touch $@
figure4 = "$(WSSS)" show "$(O)/train.h5" "$(O)/caa-crf" "$(O)/sure-$(FIGURE4_CONFIDENCE)" --truth \
	--titles "pseudo mask,confidence >= $(FIGURE4_CONFIDENCE)" $(1) -o $@
$(O)/figure4.png: $(O)/sure-$(FIGURE4_CONFIDENCE).made $(by_images) $(call given,FIGURE4_CONFIDENCE)
	$(call figure4,$(chosen))
# Also figure4.worst: the ids.
$(O)/figure4.csv: $(O)/sure-0.made $(call given,WORST)
	"$(PYTHON)" ../image_scores.py "pseudo mask=$(O)/sure-0-png" --truth "$(DATA)/SegmentationClass" \
		--worst $(WORST) -o $@ >$(O)/figure4.worst
$(O)/figure4-bad.png: $(O)/figure4.csv $(O)/sure-$(FIGURE4_CONFIDENCE).made $(call given,FIGURE4_CONFIDENCE)
	$(call figure4,--ids "$$(cat $(O)/figure4.worst)")
figure4: $(O)/figure4.png $(O)/figure4-bad.png $(O)/figure4.csv ## figure 4: pseudo masks, bad cases, mIoU by image
	@printf '%s\n' $^

FIGURE5 := initial mhsa caa
$(O)/figure5.png: $(FIGURE5:%=$(O)/%.tsv) $(by_images)
	"$(WSSS)" show "$(O)/train.h5" $(FIGURE5:%="$(O)/%") --titles initial,MHSA,CAA $(chosen) -o $@
figure5: $(O)/figure5.png ## figure 5: initial maps, and those refined by MHSA and by CAA
	@echo "$<"

# Figure S2. The curve of COCO is drawn where COCO_TRAIN is given: over its first COCO_COUNT images that have a class, by
# id, with the masks of COCO_MASKS_TRAIN (class ids 1 to 80).
COCO_COUNT ?= 2000
COCO_MASKS_TRAIN ?=
C := $(O)/coco-first
$(LAMBDAS:%=$(O)/lambda-%.json): $(O)/%.json: $(O)/%.tsv
	"$(WSSS)" eval "$(O)/$*" --background sweep-power -q -o $@
$(C)/first.json: $(call given,COCO_TRAIN COCO_COUNT)
	@mkdir -p $(@D)
	"$(PYTHON)" ../first_images.py "$(COCO_TRAIN)" --count $(COCO_COUNT) -o $@
$(C)/train.h5: $(C)/first.json $(call given,COCO_IMAGES_TRAIN COCO_MASKS_TRAIN)
	@[ -n "$(COCO_MASKS_TRAIN)" ] || { echo 'figure S2 scores maps of COCO: give COCO_MASKS_TRAIN=FOLDER' >&2; exit 2; }
	"$(WSSS)" index coco $< --images "$(COCO_IMAGES_TRAIN)" --masks "$(COCO_MASKS_TRAIN)" -o $@
$(LAMBDAS:%=$(C)/lambda-%.json): $(C)/lambda-%.json: $(C)/train.h5 $(by_clip)
	"$(WSSS)" cams clip-es $< $(clip) $(maps.lambda-$*) -o "$(C)/lambda-$*" >/dev/null
	"$(WSSS)" eval "$(C)/lambda-$*" --background sweep-power -q -o $@
$(O)/figureS2.png: $(LAMBDAS:%=$(O)/lambda-%.json) $(if $(COCO_TRAIN),$(LAMBDAS:%=$(C)/lambda-%.json)) \
		$(call given,COCO_TRAIN COCO_COUNT)
	@$(if $(COCO_TRAIN),,echo 'figure S2 lacks the curve of COCO: give COCO_TRAIN, COCO_IMAGES_TRAIN and COCO_MASKS_TRAIN' >&2)
	"$(PYTHON)" ../plot_curves.py $(foreach value,$(LAMBDAS),"VOC 2012 $(TRAIN)@$(value)=$(O)/lambda-$(value).json") \
		$(if $(COCO_TRAIN),$(foreach value,$(LAMBDAS),"first $(COCO_COUNT) of COCO 2014@$(value)=$(C)/lambda-$(value).json")) \
		--title 'Threshold of the boxes and mIoU of the refined maps' --x-label 'lambda (share of the maximum)' -o $@
figureS2: $(O)/figureS2.png ## figure S2: mIoU over lambda, of VOC and of the first images of COCO
	@cat $(O)/figureS2.csv && echo "$<"

$(O)/tableS3-frequency.csv: $(CONFIDENCES:%=$(O)/sure-%.made) $(call given,CONFIDENCES)
	"$(PYTHON)" ../confidence_bins.py $(foreach value,$(CONFIDENCES),"$(value)=$(O)/sure-$(value)-png") -o $@
tableS3-frequency: $(O)/tableS3-frequency.csv ## table S3, Frequency: pixels by the confidence of their label
	@cat $<

# VOC's server scores the masks of test: nobody else has the truth. Its images come in an archive of their own: TEST_DATA
# is the folder VOC2012 that it unpacks to.
TEST ?= test
TEST_DATA ?= $(DATA)
TESTED := seg seg-coco
$(O)/test.h5: $(call given,TEST_DATA TEST)
	"$(WSSS)" index voc "$(TEST_DATA)" --split "$(TEST)" -o $@
$(TESTED:%=$(O)/%-test.tgz): $(O)/%-test.tgz: $(O)/%.tsv $(O)/test.h5
	"$(WSSS)" segment net "$(O)/test.h5" --config $(RECIPE) --net "$(O)/$*.safetensors" -o "$(O)/$*-test" >/dev/null
	rm -rf "$(O)/$*-submission"
	"$(WSSS)" export voc "$(O)/$*-test" --submission -o "$(O)/$*-submission" >/dev/null
	tar -C "$(O)/$*-submission" -czf $@.part results && mv $@.part $@
table4-test: $(O)/seg-test.tgz ## table 4, Ours V2, Test: the archive to upload to VOC's server
	@echo "$<"
table4-test-coco-weights: $(O)/seg-coco-test.tgz ## the same, pre-trained on COCO
	@echo "$<"

# Figures 3 to 5 of CSD and the Test column of its table 1. README.md says which target is which.
# A figure has IMAGES images, evenly spread over those of several classes (figure 5: over VAL), or those of IDS, separated
# by commas. Next to each run is the one it is compared with; `wsss show` draws them.
IMAGES ?= 6
IDS ?=
# VOC's test images come in an archive of their own: TEST_DATA is the folder VOC2012 that it unpacks to.
TEST ?= test
TEST_DATA ?= $(DATA)
FIGURE4 ?= $(A)-grid-0.01-0.0 $(A)-grid-0.01-0.1

chosen = $(if $(IDS),--ids $(IDS),--count $(IMAGES))
by_images := $(call given,IMAGES IDS)
PAIR := $(A) $(A)-csd
space := $(subst ,, )
comma := ,
titles = "$(subst $(space),$(comma),$(strip $(1)))"

$(O)/multi.h5: $(O)/train.h5
	"$(WSSS)" index split $< --multi -o $@
$(S)/figure3.png: $(PAIR:%=$(S)/%/mask.json) $(O)/multi.h5 $(by_images)
	"$(WSSS)" show "$(O)/multi.h5" $(PAIR:%=$(S)/%/refined-train) $(BACKGROUND.$(A)) --truth \
		--titles $(call titles,$(PAIR)) $(chosen) -o $@
$(S)/figure4.png: $(FIGURE4:%=$(S)/%/cam.json) $(O)/multi.h5 $(by_images) $(call given,FIGURE4)
	"$(WSSS)" show "$(O)/multi.h5" $(FIGURE4:%=$(S)/%/cams-train) --titles $(call titles,$(FIGURE4)) $(chosen) -o $@
$(S)/figure5.png: $(PAIR:%=$(S)/%/seg.json) $(O)/val.h5 $(by_images)
	"$(WSSS)" show "$(O)/val.h5" $(PAIR:%=$(S)/%/prediction) --truth --titles $(call titles,$(PAIR)) $(chosen) -o $@

figure3: $(S)/figure3.png ## figure 3: pseudo masks of the base and of CSD, beside the truth
	@"$(PYTHON)" ../table.py $(foreach row,$(PAIR),"$(row): mask@$(TRAIN)=$(S)/$(row)/mask.json") && echo "$<"
figure4: $(S)/figure4.png ## figure 4: maps with lambda_2 of 0 and of 0.1, both with lambda_1 of 0.01
	@"$(PYTHON)" ../table.py $(foreach row,$(FIGURE4),"$(row): seed@$(TRAIN)=$(S)/$(row)/cam.json") && echo "$<"
figure5: $(S)/figure5.png ## figure 5: predictions on VAL of the base's network and of CSD's, beside the truth
	@"$(PYTHON)" ../table.py $(foreach row,$(PAIR),"$(row): network@$(VAL)=$(S)/$(row)/seg.json") && echo "$<"

# VOC's server scores the masks of test: nobody else has the truth.
$(O)/test.h5: $(call given,TEST_DATA TEST CLASS_NAMES)
	@mkdir -p $(@D)
	set --; [ ! -e "$(TEST_DATA)/$(CLASS_NAMES)" ] || set -- --class-names "$(TEST_DATA)/$(CLASS_NAMES)"; \
		"$(WSSS)" index voc "$(TEST_DATA)" --split $(TEST) "$$@" -o $@
$(ROWS:%=$(S)/%/submission.tgz): $(S)/%/submission.tgz: $(S)/%/seg.json $(O)/test.h5
	"$(WSSS)" segment net "$(O)/test.h5" --net $(@D)/seg.safetensors $(call of,SEGMENT_FLAGS) \
		-o $(@D)/prediction-test
	rm -rf $(@D)/submission
	"$(WSSS)" export voc $(@D)/prediction-test --submission -o $(@D)/submission
	tar -C $(@D)/submission -czf $@.part results && mv $@.part $@
test-%: $(S)/%/submission.tgz ## table 1, Test of a row: the archive to upload to VOC's server
	@echo "$<"
test: $(foreach base,$(BASES),test-$(base) test-$(base)-csd) ## Test of all rows of table 1

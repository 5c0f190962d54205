# Figures 6 to 8, with a column for each method. README.md says which target is which.
# A figure has IMAGES images, evenly spread over the split, or those of IDS, separated by commas.
IMAGES ?= 6
IDS ?=
chosen = $(if $(IDS),--ids $(IDS),--count $(IMAGES))
by_images := $(call given,IMAGES IDS)
space := $(subst ,, )
comma := ,
titles := "$(subst $(space),$(comma),$(strip $(METHODS)))"

# The background is the one under which the maps were scored; those that include theirs have none to choose.
$(METHODS:%=$(S)/%/walked-png.made): $(S)/%/walked-png.made: $(S)/%/walked.json
	if grep -q '"background": null' $<; then set --; else set -- --background "from:$<"; fi; \
		"$(WSSS)" pseudo $(@D)/walked "$$@" -o $(@D)/walked-masks
	"$(WSSS)" export png $(@D)/walked-masks --force -o $(@D)/walked-png >/dev/null
	@touch $@
$(METHODS:%=$(S)/%/prediction-png.made): $(S)/%/prediction-png.made: $(S)/%/seg.json
	"$(WSSS)" export png $(@D)/prediction --force -o $(@D)/prediction-png >/dev/null
	@touch $@

$(S)/figure6.png: $(METHODS:%=$(S)/%/cam.json) $(by_images)
	"$(WSSS)" show "$(O)/train.h5" $(METHODS:%=$(S)/%/cams) --titles $(titles) $(chosen) -o $@
$(S)/figure7.png: $(METHODS:%=$(S)/%/walked-png.made) $(by_images)
	"$(WSSS)" show "$(O)/train.h5" $(METHODS:%=$(S)/%/walked-masks) --truth --titles $(titles) $(chosen) -o $@
$(S)/figure8.png: $(METHODS:%=$(S)/%/prediction-png.made) $(by_images)
	"$(WSSS)" show "$(O)/val.h5" $(METHODS:%=$(S)/%/prediction) --truth --titles $(titles) $(chosen) -o $@
# The mIoU of each image alone, which the text of figure 7 compares.
scores = "$(PYTHON)" ../image_scores.py $(foreach method,$(METHODS),"$(method)=$(S)/$(method)/$(1)") \
	--truth "$(DATA)/SegmentationClass" -o $@
$(S)/figure7.csv: $(METHODS:%=$(S)/%/walked-png.made)
	$(call scores,walked-png)
$(S)/figure8.csv: $(METHODS:%=$(S)/%/prediction-png.made)
	$(call scores,prediction-png)

figure6: $(S)/figure6.png ## figure 6: maps of every method
	@"$(PYTHON)" ../table.py $(foreach method,$(METHODS),"$(method)@$(TRAIN)=$(S)/$(method)/cam.json") && echo "$<"
figure7: $(S)/figure7.png $(S)/figure7.csv ## figure 7: masks of the refined maps of every method, and mIoU by image
	@"$(PYTHON)" ../table.py $(foreach method,$(METHODS),"$(method)@$(TRAIN)=$(S)/$(method)/walked.json") && \
		printf '%s\n' $^
figure8: $(S)/figure8.png $(S)/figure8.csv ## figure 8: predictions of every method's network, and mIoU by image
	@"$(PYTHON)" ../table.py $(foreach method,$(METHODS),"$(method)@$(VAL)=$(S)/$(method)/seg.json") && \
		printf '%s\n' $^

# $(call given,NAMES): a file for the value of each of these variables, written anew only when it differs. What was made
# by a value depends on its file, and is asked for again when another is given: wsss then says what differs from what is
# there. Files are below the folder O, or where make runs.
given = $(1:%=$(if $(O),$(O)/)given/%)
.PHONY: always
$(call given,%): always
	@mkdir -p "$(@D)"; told='$(subst ','\'',$($*))'; printf '%s\n' "$$told" | cmp -s - "$@" || printf '%s\n' "$$told" >"$@"

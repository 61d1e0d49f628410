# SPDX-License-Identifier: GPL-2.0
#
# Thin: every target is a command of xtask/. "make help" lists them.

.DEFAULT_GOAL := help
.NOTPARALLEL:

VARIABLES := ARCH CONFIG MACHINE ALL WITHOUT KERNEL_SRC KERNEL_REF SIZE TESTS AGAINST SECONDS SEED OPS \
	FRESH FRESH_DIR KEEP FORCE V
export $(VARIABLES)

TARGETS := boot check check-upstream stress check-fresh check-deb bisect-check bench fuzz torture tree \
	kernel shell export headers deb lint docs off mbox deps help

# A variable that is not given takes the default that xtask has for it.
$(foreach v,$(VARIABLES),$(if $($(v)),,$(eval unexport $(v))))

.PHONY: $(TARGETS)
$(TARGETS):
	@. xtask/bootstrap.sh && exec "$$CARGO" run --quiet --locked --manifest-path xtask/Cargo.toml -- $@

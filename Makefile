# SPDX-License-Identifier: GPL-2.0
#
# Thin: every target is a command of xtask/. "make help" lists them.

.DEFAULT_GOAL := help
.NOTPARALLEL:

export ARCH CONFIG KERNEL_SRC KERNEL_REF SIZE TESTS AGAINST FORCE V

TARGETS := boot check check-upstream bench tree kernel shell export headers lint docs off bisect-check mbox deps help

# A variable that is not given takes the default that xtask has for it.
$(foreach v,ARCH CONFIG KERNEL_SRC KERNEL_REF SIZE TESTS AGAINST FORCE V,$(if $($(v)),,$(eval unexport $(v))))

.PHONY: $(TARGETS)
$(TARGETS):
	@. xtask/bootstrap.sh && exec "$$CARGO" run --quiet --locked --manifest-path xtask/Cargo.toml -- $@

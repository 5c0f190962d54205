# What the recipes of a paper's tables have in common: a target each, `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SECONDARY:
# An index that refused most of its images is written all the same; the next make shall not take it for made.
.DELETE_ON_ERROR:
# Also under make -j one command after the other: each takes all cores or the GPU by itself, and tables stay in a piece.
.NOTPARALLEL:

WSSS ?= wsss
PYTHON ?= python3
OUT ?= $(CURDIR)/out
O := $(OUT)
include ../given.mk

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-zS0-9.%-]+:.*## / { printf "  %-26s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

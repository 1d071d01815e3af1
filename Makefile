# The front door: every stage is one target. `make` lists them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

SIZE ?= toy
STAGE ?= evaluate
ROUNDS ?= 1
CAPTIONS ?=
PROMPTS ?=
ARGS ?=
CONFIGS := configs/$(SIZE)
OUT := outputs/$(SIZE)
BASE_PYTHON ?= python3
SIZES := $(patsubst configs/%/,%,$(sort $(wildcard configs/*/)))
ifneq ($(words $(SIZE)) $(filter $(SIZE),$(SIZES)),1 $(SIZE))
$(error SIZE is '$(SIZE)'; it must be one of $(SIZES))
endif
PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
TRAINER := $(PYTHON) -m train
COLLECT := $(PYTHON) -m collect

# Nothing here needs a model hub or an account; to use the hub, set the first to 0.
export HF_HUB_OFFLINE ?= 1
export WANDB_SILENT ?= true
export TOKENIZERS_PARALLELISM ?= false

# $(call resume,STAGE_DIR,INPUT): resume from the last checkpoint if it is newer than its config and its data.
resume = $(shell test $(1)/checkpoints/last.ckpt -nt $< -a $(1)/checkpoints/last.ckpt -nt $(2) && echo --ckpt_path $(1)/checkpoints/last.ckpt)

# $(call set_aside,FOLDER,INPUT): rename a search that was made with an older model; it can't be resumed. One that was
# renamed before is kept, with a number after its name.
set_aside = @if [ -e $(1)/trajectories.sqlite -a $(1)/trajectories.sqlite -ot $(2) ]; then mv --no-target-directory --backup=numbered $(1) $(1).replaced; fi

comma := ,
# $(call say,WHAT,TIME): what begins, and how long that took with the toy models on two CPU cores, where it was measured.
say = @echo "--- $(1)$(if $(filter toy,$(SIZE)),$(if $(2), ($(2))))"

.PHONY: help
help: ## List every target
	@awk -F ':.*## ' '/^[a-zA-Z0-9_-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up

$(INSTALLED): pyproject.toml constraints.txt
	$(BASE_PYTHON) -m venv --clear .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(INSTALLED) ## Create .venv with the pinned versions (does nothing if it is up to date)

# ---- the pipeline: stages meet on disk, a finished stage is not run twice

# A round searches with a rewriter and tunes it on what was found. Round 1 is as configured and starts from the stage-1
# rewriter; a later round starts from the rewriter that the previous round tuned, takes the next training prompts, and
# has folders of its own: these are its arguments, after the same configs.
ROUND ?= 1
HERE := $(OUT)
BEGINNER := $(OUT)/stage1_rewriter/hf
TUNED := stage3_dpo
ifneq ($(ROUND),1)
HERE := $(OUT)/round$(ROUND)
EARLIER := $(OUT)$(if $(filter-out 2,$(ROUND)),/round$(shell expr $(ROUND) - 1))
BEGINNER := $(EARLIER)/$(TUNED)/hf
LATER_LOGGER = --logger.name round$(ROUND)_$(1) --logger.save_dir $(HERE)/$(1)
LATER_TRAINER = --trainer.default_root_dir $(HERE)/$(1) --trainer.logger.name round$(ROUND)_$(1)
LATER_COLLECT := --prompts $(HERE)/prompts.jsonl --output $(HERE)/stage2_collect $(call LATER_LOGGER,stage2_collect) \
	$(foreach rewriter,rewriter alternatives.varied_1.rewriter alternatives.varied_2.rewriter,\
	--$(rewriter).language_model.pretrained $(BEGINNER))
LATER_MINE := --trajectories $(HERE)/stage2_collect --output $(HERE)/stage2_mine $(call LATER_LOGGER,stage2_mine)
LATER_SFT := $(call LATER_TRAINER,stage3_sft) --data.root $(HERE)/stage2_mine/sft
LATER_DPO := $(call LATER_TRAINER,stage3_dpo) --data.root $(HERE)/stage2_mine/preference \
	--model.pretrained $(HERE)/stage3_sft/hf
LATER_EVALUATE := --logger.name round$(ROUND)_evaluate $(foreach method,sft dpo,\
	--methods.$(method).language_model.pretrained $(HERE)/stage3_$(method)/hf)
endif

# Held-out prompts and seeds of the comparison; evaluate-full uses all prompts, in folders of its own.
EVALUATION := evaluate
HELD_OUT := 48
SEEDS := 2

.PHONY: train data graph pairs rewriter labels discriminator collect mine sft dpo evaluate evaluate-full ablation
train: ## Run all three stages and print the closing table (STAGE=sft stops after that stage, ROUNDS=2 tunes twice)
	@for round in $$(seq $(ROUNDS)); do $(MAKE) --no-print-directory ROUND=$$round $(STAGE) || exit; done

data: $(OUT)/data/captions.jsonl ## Write the captions and prompts: the toy world's, or with SIZE=wan2.1 yours (CAPTIONS=, PROMPTS=)
graph: $(OUT)/stage1_graph/meta.json ## Stage 1: build the relation graph of the captions
pairs: $(OUT)/stage1_pairs/train.jsonl ## Stage 1: make training pairs, deformed caption to caption
rewriter: $(OUT)/stage1_rewriter/hf/config.json ## Stage 1: train and export the rewriter
labels: $(OUT)/stage1_labels/train.jsonl ## Stage 1: label which of two rewrites the generator renders better
discriminator: $(OUT)/stage1_discriminator/choice.json ## Stage 1: train, export and measure the discriminator, which chooses between rewrites
ablation: $(OUT)/ablation/ablation.json ## Measure stage 1 with only some of its parts on held-out prompts, beside the paper's table
collect: $(HERE)/stage2_collect/done.json ## Stage 2: search by rendering, judging and rewriting; resumes where it stopped
mine: $(HERE)/stage2_mine/sft/train.jsonl ## Stage 2: mine champions and preference pairs from the trajectories
sft: $(HERE)/stage3_sft/hf/config.json ## Stage 3: fine-tune the rewriter on champions, and export
dpo: $(HERE)/stage3_dpo/hf/config.json ## Stage 3: tune it further on preference pairs, and export
evaluate: $(HERE)/$(EVALUATION)/summary.json ## Compare all methods on held-out prompts, with the cost of each
evaluate-full: ## Compare on every held-out prompt, with twice the seeds
	@$(MAKE) --no-print-directory EVALUATION=evaluate_full HELD_OUT=null SEEDS=4 evaluate

# The toy world makes its captions and prompts; a real model's are its user's.
ifeq ($(SIZE),toy)
$(OUT)/data/captions.jsonl: | $(INSTALLED)
	$(call say,toy world: writing captions and prompts,seconds)
	$(PYTHON) -m data_modules.toyworld --output_dir $(@D)
else
$(OUT)/data/captions.jsonl: $(CAPTIONS) $(PROMPTS) | $(INSTALLED)
	$(if $(and $(CAPTIONS),$(PROMPTS)),,$(error SIZE=$(SIZE) needs CAPTIONS=FILE, texts written like the captions \
		the model was trained on, and PROMPTS=FILE, what your users type, both with one a line; see docs/video_model.md))
	$(COLLECT) data --captions $(CAPTIONS) --prompts $(PROMPTS) --output $(@D)
endif

$(OUT)/stage1_graph/meta.json: $(CONFIGS)/stage1_graph.yaml $(OUT)/data/captions.jsonl
	$(call say,stage 1$(comma) graph: taking captions apart and linking their details,)
	$(COLLECT) graph --config $<

$(OUT)/stage1_pairs/train.jsonl: $(CONFIGS)/stage1_pairs.yaml $(OUT)/data/captions.jsonl
	$(call say,stage 1$(comma) pairs: deforming captions into what users might write,about a minute)
	$(COLLECT) pairs --config $<

$(OUT)/stage1_rewriter/hf/config.json: $(CONFIGS)/stage1_rewriter.yaml $(OUT)/stage1_pairs/train.jsonl
	$(call say,stage 1$(comma) rewriter: learning to turn prompts into captions,2.5 minutes)
	$(TRAINER) fit --config $< $(call resume,$(OUT)/stage1_rewriter,$(OUT)/stage1_pairs/train.jsonl) $(ARGS)
	$(TRAINER) export --config $< --ckpt_path $(OUT)/stage1_rewriter/checkpoints/best.ckpt --output_dir $(@D)

$(OUT)/stage1_labels/train.jsonl: $(CONFIGS)/stage1_labels.yaml $(OUT)/stage1_rewriter/hf/config.json $(OUT)/stage1_graph/meta.json
	$(call say,stage 1$(comma) labels: rendering rewrites to see which is better,20 minutes)
	$(COLLECT) labels --config $<

$(OUT)/stage1_discriminator/hf/config.json: $(CONFIGS)/stage1_discriminator.yaml $(OUT)/stage1_labels/train.jsonl
	$(call say,stage 1$(comma) discriminator: learning which of two rewrites is better,three minutes)
	$(TRAINER) fit --config $< $(call resume,$(OUT)/stage1_discriminator,$(OUT)/stage1_labels/train.jsonl) $(ARGS)
	$(TRAINER) export --config $< --ckpt_path $(OUT)/stage1_discriminator/checkpoints/best.ckpt --output_dir $(@D)

$(OUT)/stage1_discriminator/choice.json: $(CONFIGS)/stage1_choice.yaml $(OUT)/stage1_discriminator/hf/config.json
	$(call say,stage 1$(comma) discriminator: measuring its choices on held-out prompts,seconds)
	$(COLLECT) choice --config $<

$(OUT)/ablation/ablation.json: $(CONFIGS)/ablation.yaml $(OUT)/stage1_discriminator/hf/config.json
	$(call say,ablation: stage 1 with only some of its parts,)
	$(COLLECT) ablation --config $<

$(HERE)/stage2_collect/done.json: $(CONFIGS)/stage2_collect.yaml $(BEGINNER)/config.json
	$(call set_aside,$(@D),$(BEGINNER)/config.json)
	$(call say,stage 2$(comma) search: rendering$(comma) judging and rewriting prompts,about five minutes)
	$(COLLECT) run --config $< $(LATER_COLLECT)

# With the records of all earlier rounds, whose prompts are different ones, so that no prompt is in two splits.
$(HERE)/stage2_mine/sft/train.jsonl: $(CONFIGS)/stage2_mine.yaml $(HERE)/stage2_collect/done.json
	$(call say,stage 2$(comma) mining: champions and preference pairs from the search,seconds)
	$(COLLECT) mine --config $< $(LATER_MINE)
	$(if $(EARLIER),for file in $$(cd $(EARLIER)/stage2_mine && find . -name '*.jsonl'); do \
		cat $(EARLIER)/stage2_mine/$$file >> $(HERE)/stage2_mine/$$file; done)

$(HERE)/stage3_sft/hf/config.json: $(CONFIGS)/stage3_sft.yaml $(HERE)/stage2_mine/sft/train.jsonl
	$(call say,stage 3$(comma) SFT: tuning the rewriter on champions,under a minute)
	$(TRAINER) fit --config $< $(LATER_SFT) $(call resume,$(HERE)/stage3_sft,$(HERE)/stage2_mine/sft/train.jsonl) $(ARGS)
	$(TRAINER) export --config $< $(LATER_SFT) --ckpt_path $(HERE)/stage3_sft/checkpoints/best.ckpt --output_dir $(@D)

$(HERE)/stage3_dpo/hf/config.json: $(CONFIGS)/stage3_dpo.yaml $(HERE)/stage3_sft/hf/config.json
	$(call say,stage 3$(comma) DPO: tuning it further on preference pairs,under a minute)
	$(TRAINER) fit --config $< $(LATER_DPO) $(call resume,$(HERE)/stage3_dpo,$(HERE)/stage3_sft/hf/config.json) $(ARGS)
	$(TRAINER) export --config $< $(LATER_DPO) --ckpt_path $(HERE)/stage3_dpo/checkpoints/best.ckpt --output_dir $(@D)

$(OUT)/$(EVALUATION)_search/done.json: $(CONFIGS)/stage2_collect.yaml $(OUT)/stage1_rewriter/hf/config.json
	$(call set_aside,$(@D),$(OUT)/stage1_rewriter/hf/config.json)
	$(call say,evaluation$(comma) search: the search on held-out prompts$(comma) to compare with,)
	$(COLLECT) run --config $< --prompts $(OUT)/data/prompts/test.jsonl --limit $(HELD_OUT) --output $(@D) \
		--videos $(OUT)/evaluate_videos --logger.init_args.name $(EVALUATION)_search --logger.init_args.save_dir $(@D)

$(HERE)/$(EVALUATION)/summary.json: $(CONFIGS)/evaluate.yaml $(HERE)/$(TUNED)/hf/config.json \
		$(OUT)/$(EVALUATION)_search/done.json
	$(call say,evaluation: rendering and judging every method on held-out prompts,a few minutes with its search)
	@cp configs/OUTPUTS.md $(OUT)/README.md
	$(COLLECT) evaluate --config $< --limit $(HELD_OUT) --num_seeds $(SEEDS) --output $(@D) \
		--search $(OUT)/$(EVALUATION)_search --videos $(OUT)/evaluate_videos --logger.init_args.save_dir $(@D) \
		$(if $(EARLIER),$(LATER_EVALUATE) --earlier $(EARLIER)/$(EVALUATION))

ifneq ($(ROUND),1)
$(HERE)/stage2_collect/done.json: $(HERE)/prompts.jsonl

$(HERE)/prompts.jsonl: $(CONFIGS)/stage2_collect.yaml $(OUT)/data/captions.jsonl
	@mkdir -p $(@D)
	limit=$$(sed -n 's/^limit: //p' $<); tail -n +$$((($(ROUND) - 1) * limit + 1)) $(OUT)/data/prompts/train.jsonl > $@

$(EARLIER)/$(TUNED)/hf/config.json $(EARLIER)/$(EVALUATION)/summary.json:
	$(MAKE) --no-print-directory ROUND=$$(($(ROUND) - 1)) evaluate
$(HERE)/$(EVALUATION)/summary.json: | $(EARLIER)/$(EVALUATION)/summary.json
endif

# ---- what was trained, in use

.PHONY: rewrite
rewrite: $(OUT)/stage1_graph/meta.json $(OUT)/stage1_rewriter/hf/config.json ## Run stage 1 on your prompts: make rewrite ARGS='"a red ball"', or one a line on standard input
	@$(COLLECT) rewrite --config $(CONFIGS)/rewrite.yaml $(ARGS)

.PHONY: pictures
pictures: $(OUT)/stage1_rewriter/hf/config.json ## Render the before-and-after pictures in docs/
	$(PYTHON) docs/pictures.py --config docs/pictures.yaml

# ---- the committed toy weights, trained from scratch

GENERATOR := outputs/toy_generator
LANGUAGE := outputs/toy_lm

.PHONY: toy toy-lm toy-generator toy-gap
toy: toy-generator toy-lm ## Train the committed toy weights from scratch (hours on two CPU cores)

toy-lm: $(LANGUAGE)_editing/hf/config.json ## Train the toy language model and store it in models/toy
	$(PYTHON) -m models.toy half --pretrained $(<D) --output_dir models/toy/lm

$(LANGUAGE)/init/config.json: | $(INSTALLED)
	$(PYTHON) -m data_modules.toyworld.tasks --output_dir $(LANGUAGE)/data
	$(PYTHON) -m models.toy lm --data $(LANGUAGE)/data/train.jsonl --output_dir $(@D)

$(LANGUAGE)/hf/config.json: configs/toy/weights/lm.yaml $(LANGUAGE)/init/config.json
	$(TRAINER) fit --config $< $(call resume,$(LANGUAGE),$(LANGUAGE)/init/config.json)
	$(TRAINER) export --config $< --ckpt_path $(LANGUAGE)/checkpoints/best.ckpt --output_dir $(@D)

# Two more trainings with one config, each with more of the tasks that the model learns most slowly.
$(LANGUAGE)_practice/data/train.jsonl: | $(INSTALLED)
	$(PYTHON) -m data_modules.toyworld.tasks --output_dir $(@D) --num_train 36000 --focus '[deform_short, edit]' --seed 1

$(LANGUAGE)_editing/data/train.jsonl: | $(INSTALLED)
	$(PYTHON) -m data_modules.toyworld.tasks --output_dir $(@D) --num_train 36000 --focus '[edit]' --seed 2

$(LANGUAGE)_practice/hf/config.json: BEFORE := $(LANGUAGE)/hf
$(LANGUAGE)_practice/hf/config.json: $(LANGUAGE)/hf/config.json
$(LANGUAGE)_editing/hf/config.json: BEFORE := $(LANGUAGE)_practice/hf
$(LANGUAGE)_editing/hf/config.json: $(LANGUAGE)_practice/hf/config.json
$(LANGUAGE)_%/hf/config.json: configs/toy/weights/lm_practice.yaml $(LANGUAGE)_%/data/train.jsonl
	$(TRAINER) fit --config $< --model.pretrained $(BEFORE) --data.root $(LANGUAGE)_$*/data \
		--trainer.default_root_dir $(LANGUAGE)_$* $(call resume,$(LANGUAGE)_$*,$(LANGUAGE)_$*/data/train.jsonl)
	$(TRAINER) export --config $< --model.pretrained $(BEFORE) --data.root $(LANGUAGE)_$*/data \
		--ckpt_path $(LANGUAGE)_$*/checkpoints/best.ckpt --output_dir $(@D)

toy-generator: $(GENERATOR)/diffusion/hf/model_index.json ## Train the toy video generator and store it in models/toy
	$(PYTHON) -m models.toy half_generator --pretrained $(<D) --output_dir models/toy/generator

$(GENERATOR)/init/model_index.json: outputs/toy/data/captions.jsonl
	$(PYTHON) -m models.toy generator --captions $< --output_dir $(@D)

$(GENERATOR)/autoencoder/hf/model_index.json: configs/toy/weights/autoencoder.yaml $(GENERATOR)/init/model_index.json
	$(TRAINER) fit --config $< $(call resume,$(GENERATOR)/autoencoder,$(GENERATOR)/init/model_index.json)
	$(TRAINER) export --config $< --ckpt_path $(GENERATOR)/autoencoder/checkpoints/last.ckpt --output_dir $(@D)

$(GENERATOR)/diffusion/hf/model_index.json: configs/toy/weights/generator.yaml $(GENERATOR)/autoencoder/hf/model_index.json
	$(TRAINER) fit --config $< $(call resume,$(GENERATOR)/diffusion,$(GENERATOR)/autoencoder/hf/model_index.json)
	$(TRAINER) export --config $< --ckpt_path $(GENERATOR)/diffusion/checkpoints/last.ckpt --output_dir $(@D)

toy-gap: $(INSTALLED) ## Measure how much better the toy generator renders its own captions than short user prompts
	$(PYTHON) -m pytest -m bench tests/benchmarks/bench_toy_generator.py

# ---- checks

BENCHMARKS := $(filter-out %/bench_toy_generator.py,$(wildcard tests/benchmarks/bench_*.py))

.PHONY: test test-all bench lint format typecheck clean
test: $(INSTALLED) ## Run the test suite
	$(PYTHON) -m pytest

test-all: $(INSTALLED) ## Run the test suite with the slow tests
	$(PYTHON) -m pytest -m "not gpu and not bench"

bench: $(INSTALLED) ## Run the benchmarks behind the figures of time and memory in docs/
	$(PYTHON) -m pytest -m bench $(BENCHMARKS)

lint: $(INSTALLED) ## Check rules and format with ruff
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(INSTALLED) ## Fix rules and format with ruff
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

typecheck: $(INSTALLED) ## Check types with mypy
	$(PYTHON) -m mypy models data_modules collect train docs/pictures.py

MADE := README.md data ablation stage1_* stage2_* stage3_* evaluate evaluate_full evaluate_*search* evaluate_videos round[0-9]*
clean: ## Remove what the stages wrote in outputs/$(SIZE)
	rm -rf $(addprefix $(OUT)/,$(MADE))
	@if [ -d $(OUT) ] && ! rmdir $(OUT) 2> /dev/null; then echo "kept, for no stage wrote it:"; find $(OUT) -mindepth 1 -maxdepth 1; fi

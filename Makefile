# make demo   set up, make synthetic patients, train, process, test: after the set-up a minute on two cores
# make test   set up, run the tests
#
#   PYTHON=python3.12                  another interpreter (3.11 to 3.13)
#   PIP_ARGS="--extra-index-url URL"   further arguments for pip, such as the index of the small CPU build of torch

PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
DATA := lgg-mri-segmentation/synthetic
RUN := demo
DEMO := --width 8 --pixel-unshuffle 2 --crop --batch-size 8 --epochs 10 --loss bce+dice --lr 4e-3 --cosine

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

.PHONY: demo test lint clean

demo: $(VENV)/requirements.stamp
	$(BIN)/python -m dataset.synthetic $(DATA)
	$(BIN)/python train_model.py --data $(DATA) --run $(RUN) $(DEMO) --overwrite
	$(BIN)/python process_models.py --run $(RUN)
	$(BIN)/python test_model.py --run $(RUN)
	$(BIN)/python radiogenomics.py --data $(DATA) --out $(RUN)/genomics --overwrite
	@echo
	@echo "Look at $(RUN)/report.html (double click), $(RUN)/results.csv and $(RUN)/plots."

test: $(VENV)/requirements-dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

$(VENV)/%.stamp: %.txt requirements.txt requirements-optional.txt constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else \
	"Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r $< -c constraints.txt $(PIP_ARGS)
	touch $@

clean:
	rm -rf $(VENV) $(RUN) $(DATA)

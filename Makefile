.PHONY: help install lint types test test-all docs

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

install:  ## Install the package and everything that the other targets need
	pip install -c constraints.txt -e ".[test,browser,lint,docs]"

lint:  ## Check style, formatting and the import order of the packages
	ruff check .
	ruff format --check .
	lint-imports

types:  ## Check the types
	mypy samed_hf

test:  ## Run the fast tests
	python -m pytest -m "not slow"

test-all:  ## Run all tests but those of transformers and PEFT
	python -m pytest

docs:  ## Build the documentation into site/
	mkdocs build --strict

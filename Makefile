# A generated world that answers the keys. `make play` needs Python 3.11 and make, and nothing else.
#
# On Linux, PyPI's torch is a CUDA build of several GB. For the small CPU build say once
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make play

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
PROTOS := $(wildcard protos/livevideo/v1/*.proto)
ARGS ?=
# make play RAY=1: the engine as a deployment on Ray Serve. SHARDS ranks share every latent of each replica.
RAY ?=
SHARDS ?=
REPLICAS ?=

.PHONY: help play record train ablations bench faults load gpu-check rules client chart test lint fuzz format protos clean

help:
	@echo 'make play     start everything and print where to play;   ARGS="--help" for the rest'
	@echo 'make play RAY=1 SHARDS=2   the same with the engine on Ray, here or at RAY_ADDRESS, on so many ranks'
	@echo 'make bench    measure this machine, for half an hour; ARGS="--minutes 1 --crowds" for a short one'
	@echo 'make faults   kill, stop and cut off services while players play; ARGS="--kills 20 --runs 1" for a short one'
	@echo 'make load     how many players the services hold;         ARGS="--staircase" for the model that is shipped'
	@echo 'make rules    render the alerts and dashboards into deploy/; ARGS="--check" writes nothing'
	@echo 'make gpu-check  whether the GPUs here compute what a CPU does, and how fast'
	@echo 'make client   build the wheel of the Python client into out/'
	@echo 'make record   record 560 minutes of driving into data/; stop and start as you like'
	@echo 'make train    learn from them, all stages, for hours;     stop and start as you like'
	@echo 'make ablations  train and judge what docs/results.md compares, for hours more'
	@echo 'make chart    render the Helm chart in many ways, and hold it against schemas and policies'
	@echo 'make test     run the tests but those of make chart;      ARGS="-k tick" for some'
	@echo 'make lint     ruff, mypy, the import rule, the protos, known vulnerabilities'
	@echo 'make fuzz     send anything to what strangers reach;     ARGS="--seconds 600" for longer'
	@echo 'make format   let ruff arrange the code'
	@echo 'make protos   generate the messages from protos/ into gen/'
	@echo 'make clean    remove what was generated; .venv, data and runs stay'

ON_RAY := $(filter-out 0 no,$(RAY))

play: .venv/installed gen/generated $(if $(ON_RAY),.venv/with-ray)
	@$(BIN)/python -m services.play $(if $(ON_RAY),--ray) $(SHARDS:%=--shards %) $(REPLICAS:%=--replicas %) $(ARGS)

gpu-check: .venv/installed
	@$(BIN)/python -m aapt.gpu_check $(ARGS)

bench: .venv/installed gen/generated
	@$(BIN)/python -m services.bench $(ARGS)
	@$(BIN)/python -m aapt.bench
	@$(BIN)/python -m aapt.train.bench

faults: .venv/installed gen/generated
	@$(BIN)/python -m services.bench.faults $(ARGS)

load: .venv/with-load gen/generated
	@$(BIN)/python -m services.bench.load $(ARGS)

rules: .venv/with-monitoring
	@$(BIN)/python -m services.monitoring $(ARGS)

client: gen/generated
	@rm -rf libs/client/build
	@$(BIN)/python -m pip --disable-pip-version-check --quiet wheel --no-deps --wheel-dir out libs/client
	@ls out/livevideo_client-*.whl

record: .venv/developing
	@$(BIN)/python -m aapt.worlds record road --out data/road --episodes 300 $(ARGS)
	@$(BIN)/python -m aapt.worlds record road --out data/road --first 300 --episodes 300 --distracted $(ARGS)
	@$(BIN)/python -m aapt.worlds record road --out data/sighted --first 600 --episodes 240 --by-sight $(ARGS)

TRAIN := nice $(BIN)/python -m aapt.train
ROAD := --preset road --data data/road --threads 2
CLIPS := --codec runs/codec --compile --optimizer muon --clips 12
HISTORY := --late 0.25 --history-noise 0.1
STAGE3 := --codec runs/codec --init runs/distill --adapted runs/adapt --extensions 5 --graded 1 --late 0.25 \
	--penalty 25 --judge-rate 5 --judge-first 40
SIGHT := --codec runs/codec --sighted-data data/sighted --by-sight 0.8 --extensions 3 --graded 1 --late 0.25 --clips 6 \
	--penalty 25 --learning-rate 1.5e-5 --judge-rate 4 --mismatched 0.5 --anchor 0.25 --threads 1

train: .venv/developing
	@$(TRAIN) codec $(ROAD) --run runs/codec --steps 3200
	@$(TRAIN) pretrain $(ROAD) $(CLIPS) --run runs/pretrain --steps 600 --learning-rate 1.5e-3
	@$(TRAIN) adapt $(ROAD) $(CLIPS) $(HISTORY) --run runs/adapt --init runs/pretrain --steps 2000 \
		--learning-rate 1.5e-3 --pure-noise 0.5
	@$(TRAIN) distill $(ROAD) $(CLIPS) $(HISTORY) --run runs/distill --init runs/adapt --steps 220 \
		--learning-rate 2e-4 --grid-steps 16 --own-history 0.5 --own-steps 3
	@$(TRAIN) adversarial $(ROAD) $(STAGE3) --run runs/anchored --steps 400 --anchor 2 --mismatched 1
	@$(TRAIN) adversarial $(ROAD) $(SIGHT) --init runs/anchored --run runs/sighted --steps 400
	@$(TRAIN) export $(ROAD) --codec runs/codec --init runs/sighted --out out/road

ablations: .venv/developing
	@$(TRAIN) adversarial $(ROAD) $(STAGE3) --run runs/aapt --steps 1000
	@nice $(BIN)/python -m aapt.train.ablations $(ARGS)
	@$(BIN)/python -m aapt.evals results

chart: .venv/with-chart gen/generated
	@$(BIN)/python -m deploy.values --check
	@$(BIN)/python -m pytest tests/chart -rs $(ARGS)

test: .venv/with-chart gen/generated
	@$(BIN)/python -m pytest --ignore tests/chart --numprocesses 2 --no-loadscope-reorder $(ARGS)

lint: .venv/with-chart gen/generated
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint protos
	@$(BIN)/python .ci/audit

fuzz: .venv/with-fuzz gen/generated
	@for target in gate picture message page url; do \
		$(BIN)/python -m tests.fuzz $$target --found out/fuzz/$$target $(ARGS) || exit 1; done

format: .venv/developing
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

protos: gen/generated

clean:
	rm -rf gen/* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# Each stamp is touched when its work is done: what was interrupted is done again, what is done is not.

.venv/installed: pyproject.toml libs/aapt/pyproject.toml libs/client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say: make PYTHON=/path/to/python3.11")'
	@test -x .venv/bin/pip || { echo '1/3 Making the environment .venv' && $(PYTHON) -m venv .venv; }
	@echo '2/3 Installing the network; torch is large, this can take minutes the first time'
	@$(PIP) --editable libs/aapt
	@echo '3/3 Installing the services'
	@mkdir -p gen/livevideo/v1
	@$(PIP) --quiet --editable libs/client --editable '.[protos]'
	@touch $@

.venv/with-ray: .venv/installed
	@echo 'Installing Ray'
	@$(PIP) --quiet --editable '.[ray]'
	@touch $@

.venv/with-monitoring: .venv/installed
	@echo 'Installing what renders alerts and dashboards'
	@$(PIP) --quiet --editable '.[monitoring]'
	@touch $@

.venv/with-load: .venv/installed
	@echo 'Installing Locust, and what draws plots'
	@$(PIP) --quiet --editable 'libs/aapt[evals]' --editable '.[load]'
	@touch $@

.venv/with-fuzz: .venv/developing
	@echo 'Installing the fuzzer'
	@$(PIP) --quiet --editable '.[fuzz]'
	@touch $@

.venv/with-chart: .venv/developing deploy/helms.py
	@echo 'Installing what holds the chart against schemas, and Helm 3 and 4'
	@$(PIP) --quiet --editable '.[chart]'
	@$(BIN)/python -m deploy.helms
	@touch $@

.venv/developing: .venv/installed
	@echo 'Installing what developers need: tests, linters, recorders, plots, Ray'
	@$(PIP) --quiet --editable 'libs/aapt[worlds,train,evals]' --editable '.[dev,browser,ray,monitoring,load,tracing,simulate]'
	@touch $@

gen/generated: .venv/installed $(PROTOS)
	@echo 'Generating the messages'
	@mkdir -p gen
	@PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos \
		--python_out=gen --grpc_python_out=gen --mypy_out=gen --mypy_grpc_out=gen $(PROTOS)
	@touch $@

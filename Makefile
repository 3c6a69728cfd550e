# Every target does its own set-up on a fresh machine; a second run reuses it.
SHELL := /bin/bash
# Hundreds of processes start from here: each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE
VENV ?= .venv
BIN := $(VENV)/bin
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
comma := ,

# TRAIN=no leaves fine-tuning (and torch) out: the demo then says what it does not show.
TRAIN ?= yes
# Processes that tests run in: one more than there are cores, for much of a test is waiting; 0 runs them one after another.
WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
DEMO_EXTRA := $(if $(filter no,$(TRAIN)),demo,demo$(comma)train)

# No target is a file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -ts $$'\t'

demo-environment:
	@scripts/environment $(VENV) $(DEMO_EXTRA)

environment:
	@scripts/environment $(VENV) dev

demo: demo-environment  ## the flight desk end to end, four ways to answer and the story of learning: reports, one JSON line last
	@$(BIN)/python -m examples.flight_desk.run

demo-full: demo-environment  ## the story of learning with the full samples
	@$(BIN)/python -m examples.flight_desk.run --learning-only --size full

lock:  ## resolve the dependencies anew into requirements/ (ARGS=--upgrade for newer versions)
	@scripts/lock $(ARGS)

# Files of tests side by side, the slow folders first.
test: environment  ## every test
	@scripts/servers
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-floors:  ## the tests with the lowest versions of every dependency, in an environment of its own
	@scripts/environment .venv-floors dev requirements/floors.txt
	@scripts/servers
	@.venv-floors/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests/unit tests/contract tests/property

package: environment  ## build and check the distributions in dist/ (PUBLISH=yes refuses placeholder addresses)
	@scripts/check-package $(if $(PUBLISH),--publish)

platforms: environment  ## resolve an installation for Python 3.11 to 3.14 on x86-64 and aarch64
	@scripts/check-platforms

docs: environment  ## build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: environment  ## the pictures of docs/dashboard.md, taken by the browser tests
	@ANTIPHON_REQUIRE_SERVERS=1 ANTIPHON_SCREENSHOTS=docs/images $(BIN)/python -m pytest -q tests/browser

vllm-environment:  ## vLLM for the CPU in an environment of its own (3.4 GB), and the small model for it
	@scripts/vllm-environment >/dev/null

test-vllm: environment vllm-environment  ## our scheduler in a real vLLM
	@ANTIPHON_VLLM=1 $(BIN)/python -m pytest -q tests/contract/test_vllm_scheduler.py

test-clients: environment  ## clients of OpenAI's API, unmodified, against a running platform
	@scripts/client-environment >/dev/null
	@ANTIPHON_REQUIRE_CLIENTS=1 ANTIPHON_REQUIRE_SERVERS=1 $(BIN)/python -m pytest -q tests/clients

test-model: environment  ## tests of the base model with all of its layers, where `make test` takes two
	@MODEL_LAYERS=30 $(BIN)/python -m pytest -q -m model tests/property tests/integration

# Each is one process for most of its time: two at once take as long as the longer one.
check: environment  ## format, lint, strict types, import contracts, package, documentation and its site
	@$(MAKE) --no-print-directory --output-sync=target -j 2 types lint documents

types: environment
	@$(BIN)/mypy

lint: environment
	@$(BIN)/ruff format --check src tests benchmarks examples scripts
	@$(BIN)/ruff check src tests benchmarks examples scripts
	@$(BIN)/lint-imports
	@scripts/lock --check
	@scripts/check-package
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

documents: environment
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup tests/documentation

format: environment  ## put the code into the house's form
	@$(BIN)/ruff format src tests benchmarks examples scripts
	@$(BIN)/ruff check --fix src tests benchmarks examples scripts

serve: demo-environment  ## the platform on the flight desk
	@$(BIN)/python -m examples.flight_desk.run --serve

bench-engine: environment  ## batch tokens/s of the engine beside a bare llama.cpp loop
	@$(BIN)/python -m benchmarks.engine

bench-upstream: environment  ## batch beside online before one server that gateways and workers share; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.upstream --size $(SIZE) --keep

bench-upstream-vllm: environment vllm-environment  ## the same before a real vLLM on this machine's processor (SIZE)
	@$(BIN)/python -m benchmarks.upstream.vllm --size $(SIZE) --keep

bench-upstream-noise: environment vllm-environment  ## how far log-probabilities move by other requests, and by changes of the weights
	@$(BIN)/python -m benchmarks.upstream.noise --size $(SIZE) --keep
	@$(BIN)/python -m benchmarks.upstream.changes --keep

bench-gateway: environment  ## latency, requests a second and memory of the gateway beside LiteLLM's proxy (SIZE, PEER=no)
	@$(if $(filter no,$(PEER)),,scripts/litellm-environment >/dev/null)
	@$(BIN)/python -m benchmarks.gateway --size $(SIZE) $(if $(filter no,$(PEER)),--no-peer)

bench-desk: environment  ## the flight desk over a month
	@$(BIN)/python -m benchmarks.flight_desk.desk

bench-prefix-affinity: environment  ## prompt tokens computed by two engines with affinity and at random, beside one engine
	@$(BIN)/python -m benchmarks.engine.prefix_affinity --record $(ARGS)

bench-parity: environment  ## batch and online text, and replay, byte by byte on 200 requests
	@$(BIN)/python -m benchmarks.engine.parity

bench-evidence: environment  ## explain every prediction of the demo's run, replay 200 of them
	@$(BIN)/python -m benchmarks.flight_desk.evidence

# SIZE=full takes about 45 minutes on two cores; PEER=no leaves Feast out.
SIZE ?= demo
bench-features: environment  ## every goal of the feature platform beside Feast: a table and one JSON line
	@scripts/servers
	@$(if $(filter no,$(PEER)),,scripts/feast-environment >/dev/null)
	@$(BIN)/python -m benchmarks.features --size $(SIZE) $(if $(filter no,$(PEER)),--no-peer)

bench-colocation: environment  ## batch beside online: every policy on the same arrivals, held against an oracle
	@$(BIN)/python -m benchmarks.colocation --size $(SIZE) --plot benchmarks/results/colocation.svg --record

bench-adaptation: environment  ## how soon the service level holds again after a start, more load, a busy neighbor; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.colocation.adaptation --size $(SIZE) --record

bench-answers-cache: environment  ## answers found in store while features change, with and without refreshing them
	@$(BIN)/python -m benchmarks.batches.answers_cache --size $(SIZE)

bench-vllm: environment vllm-environment  ## batch beside online on vLLM: its priority scheduling, static caps, our scheduler class
	@$(BIN)/python -m benchmarks.colocation.vllm --size $(SIZE) --record

bench-feature-faults: environment  ## 22 faults of data against the gates, and false alarms of healthy days
	@$(BIN)/python -m benchmarks.features.faults

bench-feature-lookup: environment  ## full-stack lookups of 1 and 100 entities beside Feast, on LMDB and Redis
	@$(BIN)/python -m benchmarks.features.lookup --size demo

bench-read-paths: environment  ## every way to read a feature on 10⁶ generated cells, bit for bit (SIZE=ci|demo|full)
	@$(BIN)/python -m benchmarks.features.read_paths --size $(SIZE) --record

bench-feature-publish: environment  ## rows a second from Parquet to a sealed file, the gates' share, memory
	@$(BIN)/python -m benchmarks.features.publish --size demo

bench-feature-neighbors: environment  ## texts embedded a second, and the nearest-neighbor index against an exact search
	@$(BIN)/python -m benchmarks.features.neighbors --size demo

bench-retrieval: environment  ## recall@5 of retrieval beside an exact search and BM25, latency, and how soon an update is retrieved; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.features.retrieval --size $(SIZE) --keep

bench-feature-skew: environment  ## comparing batch and online, by the source and by what snapshots keep of it
	@$(BIN)/python -m benchmarks.features.skew --size demo

bench-feature-following: environment  ## how soon a row that another system writes counts online, and that each counts once over kills
	@$(BIN)/python -m benchmarks.features.following --size demo

bench-feature-stream: environment  ## how soon an event is servable, on SQLite and LMDB and on NATS and Redis
	@$(BIN)/python -m benchmarks.features.stream --size demo

bench-batch-order: environment  ## prefix savings, lateness and forecasts of batch work, simulated beside replayed arrivals
	@$(BIN)/python -m benchmarks.batches.batch_order --size $(SIZE) --record

bench-embeddings: environment  ## embedding a corpus beside people who chat
	@$(BIN)/python -m benchmarks.engine.embeddings

bench-batches: environment  ## a file of 200 MB in and checked, a batch beside the same requests online, and canceling batches of 3,000
	@$(BIN)/python -m benchmarks.batches --size full

bench-guards: environment  ## time to the first shown sentence with guards and without, and adversarial texts; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.guards --size $(SIZE) --keep

bench-conversations: environment  ## ten turns with an assistant: earlier tokens that are not computed again, and replay; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.conversations --size $(SIZE) --keep

bench-judged-means: environment  ## judges' means corrected by people's scores: how often the interval is right, beside the judge alone; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.learning.judged_means --size $(SIZE)

bench-applications: environment  ## every blueprint all the way: init, up, ask, batch, outcomes, train or edit, gates, shadow, canary, live, a bad release stopped
	@$(BIN)/python -m benchmarks.applications

bench-workbench: environment  ## texts of the prompt workbench and of production, byte by byte under load; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.learning.workbench --size $(SIZE)

bench-admission: environment  ## the gate in front of the engine beside every fixed limit, in virtual time
	@$(BIN)/python -m benchmarks.gateway.admission --size $(SIZE)

bench-load-attacks: environment  ## another tenant's waiting times beside each of nine attacks on load; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.gateway.load_attacks --size $(SIZE)

bench-structure: environment  ## size, ports, import circles and language of the source tree
	@$(BIN)/python -m benchmarks.structure

bench-paired: environment  ## one benchmark by turns here and in an earlier revision (AGAINST=REVISION RUN="gateway --size ci --no-peer")
	@$(BIN)/python -m benchmarks.paired $(AGAINST) $(ARGS) -- $(RUN)

# Of the tree before the catalog on PostgreSQL, unless AGAINST names another one.
bench-gateway-before: environment  ## latency and requests a second of the gateway beside an earlier revision's, both running at once (AGAINST=REVISION)
	@$(BIN)/python -m benchmarks.gateway.side_by_side $(or $(AGAINST),8b32f586) --over engine
	@$(BIN)/python -m benchmarks.gateway.side_by_side $(or $(AGAINST),8b32f586) --over remote

bench-startup: environment  ## import and --help
	@$(BIN)/python -m benchmarks.startup

bench-catalogs: environment  ## answers kept a second and the time of a step, on SQLite and on PostgreSQL
	@scripts/servers
	@$(BIN)/python -m benchmarks.durability.catalogs --size $(SIZE) --record

bench-migrate: environment  ## the flight desk's project moved to servers and back, others while they run on one host and on two; SIZE=ci|demo
	@scripts/servers
	@$(BIN)/python -m benchmarks.durability.migrate --size $(SIZE) --record
	@$(BIN)/python -m benchmarks.durability.live_move --keep
	@$(BIN)/python -m benchmarks.durability.live_move --keep --hosts none kill stop none cut kill

bench-scale: environment  ## requests a second of two gateways on one catalog beside one, on SQLite and PostgreSQL; needs root
	@scripts/servers
	@$(BIN)/python -m benchmarks.gateway.scale --size $(SIZE) --keep

bench-durable: environment  ## step cost of the durable journal beside DBOS
	@$(BIN)/python -m benchmarks.durability.durable_spike

bench-conductor: environment  ## weeks of users and deadlines beside cron, priorities, a cap and AIMD; freezes, assets, time to decide (SIZE)
	@scripts/servers
	@$(BIN)/python -m benchmarks.conductor --size $(SIZE) --keep

bench-conductor-hour: environment  ## users beside batch work, a training and refreshes on one machine, by policy, for real (SIZE)
	@$(BIN)/python -m benchmarks.conductor.hour --size $(SIZE) --keep

chaos-conductor: environment  ## workers killed at 1,000 random moments while the conductor makes what is stale (SIZE=full)
	@scripts/servers
	@$(BIN)/python -m benchmarks.durability.conductor_kills --size $(SIZE) --keep

bench-wakeups: environment  ## idle processes, and how soon a submitted run begins
	@$(BIN)/python -m benchmarks.durability.wakeups --keep

bench-drain: environment  ## runs a second while 10,000 queued ones drain, and how soon another class begins; SIZE=ci|demo|full
	@scripts/servers
	@$(BIN)/python -m benchmarks.durability.drain --size $(SIZE) --record

bench-rolling: environment  ## every process replaced one by one under load: how many requests fail
	@$(BIN)/python -m benchmarks.durability.rolling --keep

bench-engine-scaling: environment  ## engines stopped and started: memory, first request, the online path beside the code without it; SIZE=ci|demo, BEFORE=revision
	@$(BIN)/python -m benchmarks.engine.scaling --size $(SIZE) --keep $(if $(BEFORE),--before $(BEFORE))

bench-judge: environment  ## false rollbacks and power of the judge beside a peeked z-test and a threshold
	@$(BIN)/python -m benchmarks.learning.judge --full

bench-watch: environment  ## bad live releases of four kinds and a drifting view rolled back, and how often good ones are; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.learning.watch --size $(SIZE) --keep

bench-rollout-statistics: environment  ## false rollbacks, false promotions and power of the paired test for each kind of outcome
	@$(BIN)/python -m benchmarks.learning.rollout_statistics --full

bench-flips: environment  ## 100 flips of the live pointer under load
	@$(BIN)/python -m benchmarks.learning.flips

bench-training-kills: environment  ## ten kills of a training, then of its hosts, which take it over from each other: the same weights
	@scripts/servers
	@$(BIN)/python -m benchmarks.learning.training_kills
	@$(BIN)/python -m benchmarks.learning.training_take_over

bench-training-speed: environment  ## seconds of a training step in bf16 and fp32, with and without AVX-512
	@$(BIN)/python -m benchmarks.learning.training_speed

bench-text-learning: environment  ## fine-tuning on real e-mails, five folders and subjects from bodies, beside scikit-learn; SIZE=ci|demo|full
	@$(BIN)/python -m benchmarks.learning.text_learning --size $(SIZE) --keep

bench-outlook: environment  ## what fine-tuning, fresh features and delta retraining are worth on the flight desk
	@$(BIN)/python -m benchmarks.flight_desk.outlook --size full

bench-month: environment  ## thirty days of the flight desk without a person, beside never training and once a month (SIZE; RESUME=1 goes on with one that was stopped)
	@scripts/servers faketime
	@$(BIN)/python -m benchmarks.flight_desk.month --size $(SIZE) --keep $(if $(RESUME),--resume)

bench-history: environment  ## what a year of measurements takes, and how soon any span of it is read (SIZE)
	@$(BIN)/python -m benchmarks.operations.history --size $(SIZE) --keep

bench-incidents: environment  ## are incidents found, by the right cause, and none for nothing; simulated faults (SIZE)
	@$(BIN)/python -m benchmarks.operations.incidents --size $(SIZE) --keep

bench-operations: environment  ## faults of a running platform under load: found, by the right cause, mended by whom; beside rules and BARO (SIZE; goes on where it was stopped, ARGS=--anew begins again)
	@$(BIN)/python -m benchmarks.operations.faults --size $(SIZE) --keep $(ARGS)

game-day: environment  ## every chaos experiment over a platform with two applications under load: did each hold, and the time outside; needs root (SIZE)
	@$(BIN)/python -m benchmarks.operations.game_day --size $(SIZE) --keep

bench-pages: environment  ## how soon every page of the dashboard comes with N predictions and a year of history, under load (SIZE, CATALOG)
	@$(BIN)/python -m benchmarks.operations.pages --size $(SIZE) $(if $(CATALOG),--catalog $(CATALOG)) --keep

bench-ledger: environment  ## what the ledger of cost adds to the commit of an answer, on both catalogs
	@scripts/servers
	@$(BIN)/python -m benchmarks.operations.ledger_cost --catalog sqlite --keep
	@$(BIN)/python -m benchmarks.operations.ledger_cost --catalog postgresql --keep

bench-budgets: environment  ## what budgets add to an answer, and that crowds and kills overshoot nothing (SIZE)
	@$(BIN)/python -m benchmarks.operations.budgets --size $(SIZE) --keep

bench-telemetry: environment  ## what spans on the disk and a collector cost the gateway (SIZE)
	@$(BIN)/python -m benchmarks.operations.telemetry_cost --size $(SIZE) --keep

bench-beside-training: environment  ## time to first token beside training, governed and not
	@$(BIN)/python -m benchmarks.learning.beside_training

bench-governance: environment  ## policy parity, decisions, identity, audit, what they cost the gateway: figures and what must not differ
	@$(BIN)/python -m benchmarks.governance.policy --size full
	@$(BIN)/python -m benchmarks.governance.identity --size full
	@$(BIN)/python -m benchmarks.governance.audit --size full
	@$(BIN)/python -m benchmarks.governance.trust_cost --size full

bench-encryption: environment  ## a disk image searched for plaintext, keys rotated under load, the cost of sealing
	@$(BIN)/python -m benchmarks.governance.encryption --size full

bench-tls: environment  ## certificates rotated under load, the cost of TLS
	@$(BIN)/python -m benchmarks.governance.tls --size full

pentest: environment  ## attack everything: penetration tests, scanners, dependency audit
	@scripts/audit-dependencies $(VENV)
	@PENTEST_SIZE=full $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests/pentest
	@$(BIN)/python -m benchmarks.governance.pentest --size full

chaos: environment  ## the kill harness, 20 kills of each process
	@$(BIN)/python -m tests.chaos.harness.kill_harness --kills 20 --results benchmarks/results

chaos-ledger: environment  ## the ledger of cost over 102 kills of gateway, engine and worker: rows = what was measured (SIZE=ci|demo|full)
	@$(BIN)/python -m benchmarks.durability.ledger_kills --size $(if $(filter file,$(origin SIZE)),full,$(SIZE)) --keep

chaos-batches: environment  ## batches of 2,000 requests killed at 200 random moments
	@$(BIN)/python -m benchmarks.durability.batch_kills --size full

chaos-features: environment  ## the feature platform killed at 260 random moments, and 80 rounds of ten processes at once
	@scripts/servers
	@$(BIN)/python -m benchmarks.durability.feature_chaos --size full --keep
	@$(BIN)/python -m benchmarks.durability.feature_crowd --size full --keep

chaos-apply: environment  ## 100 changed views applied under load, with kills: no request fails
	@$(BIN)/python -m benchmarks.durability.apply_kills --size full --keep

chaos-log: environment  ## the event log on NATS: publishers, consumer and server killed at 200 random moments
	@scripts/servers
	@CHAOS_SIZE=full $(BIN)/python -m pytest -q tests/integration/features/streaming/test_nats_cluster.py
	@$(BIN)/python -m benchmarks.durability.log_chaos --size full --keep

chaos-processes: environment  ## two hosts with gateways, engines and workers on one PostgreSQL: 300 kills, and each defence taken away
	@scripts/servers
	@$(BIN)/python -m tests.chaos.harness.many_processes --kills 300 --pauses 10 --results benchmarks/results/many_processes.jsonl
	@$(BIN)/python -m tests.chaos.harness.many_processes --kills 12 --broken early-acknowledgement
	@$(BIN)/python -m tests.chaos.harness.many_processes --kills 12 --broken repeated
	@$(BIN)/python -m tests.chaos.harness.many_processes --pauses 6 --broken unfenced

chaos-hosts: environment  ## the same hosts in networks of their own: 100 partitions and restarts of PostgreSQL; needs root
	@scripts/servers
	@$(BIN)/python -m tests.chaos.harness.many_processes --partitions 100 --results benchmarks/results/many_processes.jsonl

simulate: environment  ## 100,000 seeds of catalog, workers, schedules, releases, batches, streams and audit with faults, and planted faults; SIZE=ci|demo|full, or SEEDS=FROM:TO; JOBS=N
	@$(BIN)/python -m benchmarks.durability.simulation --keep $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(SEEDS),--seeds $(SEEDS),--size $(if $(filter file,$(origin SIZE)),full,$(SIZE)))

clean:  ## remove what was made here (not the caches outside)
	rm -rf $(VENV) .venv-vllm .venv-floors dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis examples/flight_desk/out examples/flight_desk/.antiphon

# The election under simulated faults: SEED=n runs one schedule again with its trace, N=n runs so many.
.PHONY: sim
sim: ## The election under simulated faults; SEED=n replays one schedule, N=n runs so many
	LEASEHOLD_SIM_SEED=$(SEED) LEASEHOLD_SIM_N=$(N) cargo test --test simulation -- --nocapture every_invariant_holds

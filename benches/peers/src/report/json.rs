//! Everything as JSON, format 1. Within a format fields are only added.

use super::{Comparison, Setting};
use crate::args::Args;
use crate::rounds::Results;

/// Setting, every run, and every comparison.
pub(crate) fn json(args: &Args, setting: &Setting, results: &Results, compared: &[Comparison]) -> serde_json::Value {
    serde_json::json!({
        "schema": 1,
        "setting": setting,
        "options": {
            "rounds": args.rounds,
            "duration_s": args.duration.as_secs_f64(),
            "warm_up_s": args.warm_up.as_secs_f64(),
            "clients": args.clients,
            "connections_per_member": args.connections,
            "keys": args.keys,
            "value_bytes": args.value_size,
            "shards": args.shards,
            "clock_bound_us": args.clock_bound.as_secs_f64() * 1e6,
            "seed": args.seed,
        },
        "disk": results.disk,
        "runs": results.taken,
        "comparisons": compared,
    })
}

//! `meridian budget`: what placements cost, before anything is placed, and whether that is good enough.

mod slo;
mod source;

use crate::context::Context;
use crate::exit::BudgetBroken;
use crate::output::{self, Format, number, short};
use comfy_table::Cell;
use meridian_catalog::budget::{Budget, Cost, Loss, Overheads, RegionBudget};
use meridian_types::{Placement, RegionId};
use serde_json::{Value, json};
use slo::{Checked, Slos};
use source::Source;
use std::path::PathBuf;
use std::time::Duration;

/// What every operation costs from every region: the physical floor, and the median and 99th percentile to expect.
///
/// Asks the running cluster for its measured round trips and its tables, or takes a topology before there is any cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A preset or a topology file instead of a running cluster.
    #[arg(long, value_name = "NAME|FILE")]
    topology: Option<String>,
    /// A placement to price; may be repeated. Without: the cluster's tables, or `global` of a topology.
    #[arg(long, value_name = "PLACEMENT", value_parser = Placement::parse)]
    placement: Vec<Placement>,
    /// What would be otherwise: `leader=REGION`.
    #[arg(long, value_name = "KEY=VALUE", value_parser = what_if)]
    what_if: Option<RegionId>,
    /// Objectives to hold the prediction against; exits with 6 if one is broken.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// How long an fsync takes on the nodes' disks, at the median.
    #[arg(long, value_name = "TIME", default_value = "300us", value_parser = humantime::parse_duration)]
    fsync: Duration,
    /// How wide the nodes' clocks are: what commit wait has to outlast.
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = humantime::parse_duration)]
    clock_width: Duration,
}

const HELP: &str = "\
Examples:
  meridian budget --topology three --placement global:us-east --placement global-reads:us-east
  meridian budget --what-if leader=eu-west
  meridian budget --topology five --check slo.toml

Objectives (slo.toml). What is left out is not asked; without `region`, of every region:
  [[slo]]
  placement = \"global:us-east\"    # or the name of a table
  operation = \"write\"             # write, linearizable, stale
  region = \"eu-west\"
  p50 = \"80ms\"
  p99 = \"100ms\"

  [[slo]]
  placement = \"global:us-east\"
  operation = \"stale\"
  staleness = \"300ms\"

  [[slo]]
  placement = \"global:us-east\"
  survives = \"us-east\"
  pause = \"3s\"

The floor counts round trips only; the rest of a prediction is fsyncs, the work of the processes and the spread of both.";

fn what_if(text: &str) -> Result<RegionId, String> {
    match text.split_once('=') {
        Some(("leader", region)) if !region.is_empty() => Ok(region.into()),
        _ => Err(format!("`{text}` is not `leader=REGION`")),
    }
}

/// A budget with the name of what it is of.
#[derive(Debug)]
pub(crate) struct Named {
    /// A table, or the placement itself.
    name: String,
    placement: Placement,
    budget: Budget,
}

pub(crate) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let slos = args.check.as_deref().map(Slos::read).transpose()?;
    let source = match &args.topology {
        Some(topology) => Source::of_topology(topology)?,
        None => Source::of_cluster(context).await?,
    };
    let overheads = Overheads { fsync: args.fsync, clock_width: args.clock_width, ..Overheads::default() };
    let mut wanted: Vec<(String, Placement)> = args.placement.iter().map(|p| (p.to_string(), p.clone())).collect();
    if let Some(slos) = &slos {
        // What is to be checked is priced.
        wanted.extend(
            slos.placements()
                .filter(|p| source.table(p).is_none())
                .map(|p| Ok((p.to_owned(), Placement::parse(p)?)))
                .collect::<Result<Vec<_>, meridian_types::BadPlacement>>()?,
        );
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        wanted.dedup_by(|a, b| a.0 == b.0);
    }
    if wanted.is_empty() || slos.is_some() {
        wanted.extend(source.tables().map(|(name, placement)| (name.to_owned(), placement.clone())));
    }
    if wanted.is_empty() {
        wanted.push(("global".to_owned(), Placement::parse("global")?));
    }
    let named = wanted.into_iter().map(|(name, placement)| {
        let budget = source.price(&placement, args.what_if.as_ref(), &overheads)?;
        Ok(Named { name, placement, budget })
    });
    let named = named.collect::<anyhow::Result<Vec<Named>>>()?;
    let checked = slos.map(|slos| slos.check(&named)).unwrap_or_default();
    show(context, &named, &checked)?;
    let broken = checked.iter().filter(|c| !c.holds()).count();
    if broken > 0 { Err(BudgetBroken(broken).into()) } else { Ok(()) }
}

fn show(context: &Context, named: &[Named], checked: &[Checked]) -> anyhow::Result<()> {
    if context.format() == Format::Json {
        let budgets: Vec<Value> = named.iter().map(budget_json).collect();
        let checks: Vec<Value> = checked.iter().map(Checked::json).collect();
        return output::json(&json!({ "budgets": budgets, "checks": checks }));
    }
    for n in named {
        let (b, t) = (&n.budget, &n.budget.timing);
        let placement = n.placement.to_string();
        let of = if n.name == placement { String::new() } else { format!(", {placement}") };
        output::data(format!("{}{of}: led from {}, votes in {}", n.name, b.leader, join(&b.voters)))?;
        if let Some(lead) = b.lead_time {
            output::data(format!(
                "closes {} ahead of the leader's clock: every region reads by itself, and writes wait",
                short(lead)
            ))?;
        }
        output::data(costs(b))?;
        output::data(losses(&b.losses))?;
        output::data(format!("heartbeats every {} ms, lease {} ms\n", t.heartbeat_ms, t.election_max_ms))?;
    }
    for c in checked {
        output::data(c.line())?;
    }
    Ok(())
}

fn join(regions: &[RegionId]) -> String {
    regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ")
}

/// Floor, median and 99th percentile.
fn three(c: Cost) -> [Cell; 3] {
    [c.floor, c.p50, c.p99].map(|d| number(short(d)))
}

fn costs(budget: &Budget) -> String {
    let mut t = output::table([
        "from",
        "write floor",
        "p50",
        "p99",
        "linearizable floor",
        "p50",
        "p99",
        "stale p50",
        "p99",
        "how old",
    ]);
    for r in &budget.regions {
        let mut row = vec![Cell::new(&r.region)];
        row.extend(three(r.write));
        row.extend(three(r.linearizable));
        row.extend([r.stale.p50, r.stale.p99, r.staleness].map(|d| number(short(d))));
        t.add_row(row);
    }
    t.to_string()
}

fn losses(losses: &[Loss]) -> String {
    let mut t = output::table(["lost region", "writes", "pause"]);
    for l in losses {
        let pause = match l.pause {
            None => "until it is back".to_owned(),
            Some(Duration::ZERO) => "none".to_owned(),
            Some(pause) => short(pause),
        };
        t.add_row(vec![Cell::new(&l.region), Cell::new(if l.writes_go_on { "go on" } else { "stop" }), number(pause)]);
    }
    t.to_string()
}

fn micros(d: Duration) -> Value {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX).into()
}

fn budget_json(n: &Named) -> Value {
    let b = &n.budget;
    let cost = |c: Cost| json!({ "floor_us": micros(c.floor), "p50_us": micros(c.p50), "p99_us": micros(c.p99) });
    let region = |r: &RegionBudget| {
        json!({
            "region": r.region.as_str(),
            "replica": r.replica,
            "write": cost(r.write),
            "linearizable": cost(r.linearizable),
            "stale": cost(r.stale),
            "staleness_us": micros(r.staleness),
        })
    };
    let loss = |l: &Loss| json!({ "region": l.region.as_str(), "writes_go_on": l.writes_go_on, "pause_us": l.pause.map(micros) });
    json!({
        "name": n.name,
        "placement": n.placement.to_string(),
        "leader": b.leader.as_str(),
        "voters": b.voters.iter().map(RegionId::as_str).collect::<Vec<_>>(),
        "regions": b.regions.iter().map(region).collect::<Vec<_>>(),
        "losses": b.losses.iter().map(loss).collect::<Vec<_>>(),
        "lead_time_us": b.lead_time.map(micros),
        "heartbeat_ms": b.timing.heartbeat_ms,
        "lease_ms": b.timing.election_max_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(placement: &str) -> Named {
        let source = Source::of_topology("three").unwrap();
        let placement = Placement::parse(placement).unwrap();
        let budget = source.price(&placement, None, &Overheads::default()).unwrap();
        Named { name: placement.to_string(), placement, budget }
    }

    #[test]
    fn a_budget_shows_every_region_and_every_loss() {
        let n = named("global:us-east");
        let text = costs(&n.budget);
        for region in ["us-east", "eu-west", "ap-northeast"] {
            assert!(text.contains(region) && losses(&n.budget.losses).contains(region), "{text}");
        }
        let json = budget_json(&n);
        assert_eq!((&json["regions"][1]["write"]["floor_us"], &json["leader"]), (&json!(70_000), &json!("us-east")));
        assert_eq!(json["lead_time_us"], Value::Null);
        assert!(budget_json(&named("global-reads:us-east"))["lead_time_us"].as_u64() > Some(140_000));
        assert!(losses(&named("regional:eu-west").budget.losses).contains("until it is back"));
    }

    #[test]
    fn only_a_leader_can_be_otherwise() {
        assert_eq!(what_if("leader=eu-west"), Ok("eu-west".into()));
        for text in ["leader=", "leader", "voters=3"] {
            assert!(what_if(text).is_err(), "{text}");
        }
    }
}

//! Plans for the presets, and for clusters that are too small for them.

use super::*;
use crate::presets::{five, lan, three};

/// Nodes numbered from 1, given as `region` or `region/zone`.
fn sites(places: &[&str]) -> Vec<Site> {
    let site = |(node, place): (u64, &&str)| {
        let (region, zone) = place.split_once('/').unwrap_or((place, "a"));
        Site { node: NodeId(node), region: region.into(), zone: zone.into() }
    };
    (1..).zip(places).map(site).collect()
}

const THREE: [&str; 3] = ["us-east", "eu-west", "ap-northeast"];
const FIVE: [&str; 5] = ["us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2"];
const LAN: [&str; 3] = ["local/a", "local/b", "local/c"];

/// Voters, leader first, then learners, by node number.
fn members(plan: &Plan) -> (Vec<u64>, Vec<u64>) {
    let of = |voter| plan.replicas.iter().filter(|r| r.voter == voter).map(|r| r.node.0).collect();
    (of(true), of(false))
}

fn planned(sites: &[Site], rtts: &RttMatrix, placement: &str) -> Result<Plan, Error> {
    plan(sites, rtts, &Placement::parse(placement).unwrap(), &mut Hosted::new())
}

#[test]
fn presets_are_placed_for_the_smallest_quorum_round_trip() {
    type Row<'a> = (&'a [&'a str], RttMatrix, &'a str, &'a [u64], &'a [u64], u64);
    let table: [Row<'_>; 13] = [
        // us-east and eu-west both reach a majority in 70 ms; from us-east the third voter is nearer.
        (&THREE, three(), "global", &[1, 2, 3], &[], 105),
        (&THREE, three(), "global:eu-west", &[2, 1, 3], &[], 105),
        (&THREE, three(), "global:ap-northeast,us-east", &[3, 1, 2], &[], 105),
        (&THREE, three(), "global-reads", &[1, 2, 3], &[], 105),
        (&THREE, three(), "regional:eu-west", &[2], &[3, 1], 105),
        // From us-east-1: us-west-2 in 63 ms, eu-west-1 in 68 ms.
        (&FIVE, five(), "global", &[1, 2, 3], &[4, 5], 127),
        (&FIVE, five(), "global:us-west-2", &[2, 1, 4], &[5, 3], 127),
        (&FIVE, five(), "global:ap-southeast-2", &[5, 4, 2], &[3, 1], 127),
        (&FIVE, five(), "global-reads:us-west-2", &[2, 1, 4], &[5, 3], 127),
        (&FIVE, five(), "regional:ap-northeast-1", &[4], &[5, 3, 1, 2], 127),
        (&LAN, lan(), "global", &[1, 2, 3], &[], 100),
        (&LAN, lan(), "global:c", &[3, 1, 2], &[], 100),
        (&LAN, lan(), "regional:local", &[1, 2, 3], &[], 100),
    ];
    for (places, rtts, placement, voters, learners, heartbeat_ms) in table {
        let plan = planned(&sites(places), &rtts, placement).unwrap();
        let (got_voters, mut got_learners) = members(&plan);
        let mut learners = learners.to_vec();
        got_learners.sort_unstable();
        learners.sort_unstable();
        assert_eq!((got_voters.as_slice(), got_learners), (voters, learners), "{places:?} {placement}");
        assert_eq!(plan.preferred_leader.0, voters[0], "{placement}");
        assert_eq!(plan.lead_time, placement.starts_with("global-reads"), "{placement}");
        assert_eq!(plan.timing.heartbeat_ms, heartbeat_ms, "{places:?} {placement}");
    }
}

#[test]
fn more_losses_take_more_voters() {
    let survive = |survive| Placement::Global { leader: vec![], survive };
    let sites = sites(&FIVE);
    // From us-east-1 two others answer within 68 ms; from us-west-2 only within 97 ms.
    let two = plan(&sites, &five(), &survive(2), &mut Hosted::new()).unwrap();
    assert_eq!(members(&two), (vec![1, 2, 3, 4, 5], vec![]));
    let three = plan(&sites, &five(), &survive(3), &mut Hosted::new()).unwrap_err();
    assert!(three.message.contains("needs nodes in 7 regions, and there are nodes in 5"), "{three}");
}

#[test]
fn what_is_missing_is_said() {
    let table: [(&[&str], RttMatrix, &str, &str); 7] = [
        (&[], three(), "global", "needs nodes in 3 regions, and there are nodes in 0"),
        (&["us-east", "eu-west"], three(), "global", "there are nodes in 2 (`eu-west`, `us-east`)"),
        // Three zones of one region of a wide-area cluster are not three regions.
        (&["us-east/a", "us-east/b", "us-east/c"], three(), "global", "needs nodes in 3 regions"),
        (&["local/a", "local/b", "local/b"], lan(), "global", "needs nodes in 3 zones, and there are nodes in 2"),
        (&THREE, three(), "global:mars", "no region `mars`"),
        (&["us-east"], three(), "regional:eu-west", "no node in the home region `eu-west`"),
        (&["us-east", "eu-west", "mars"], three(), "global", "the round trip between"),
    ];
    for (places, rtts, placement, text) in table {
        let error = planned(&sites(places), &rtts, placement).unwrap_err();
        assert_eq!(error.reason, Reason::BadPlacement);
        assert!(error.message.contains(text), "{places:?} {placement}: {error}");
    }
}

#[test]
fn a_preferred_region_without_nodes_is_passed_over() {
    let places = ["us-east-1", "us-west-2", "eu-west-1"];
    let plan = planned(&sites(&places), &five(), "global:ap-northeast-1,us-west-2").unwrap();
    assert_eq!(plan.preferred_leader, NodeId(2));
    let plan = planned(&sites(&places), &five(), "global:ap-northeast-1").unwrap();
    assert_eq!(plan.preferred_leader, NodeId(1), "as without a preference");
}

#[test]
fn shards_spread_over_the_nodes_of_a_region() {
    let sites = sites(&["us-east", "us-east", "eu-west", "eu-west", "ap-northeast"]);
    let mut hosted = Hosted::from([(NodeId(1), 1)]);
    let global = Placement::Global { leader: vec![], survive: 1 };
    let plans: Vec<_> = (0..3).map(|_| members(&plan(&sites, &three(), &global, &mut hosted).unwrap()).0).collect();
    assert_eq!(plans, [[2, 3, 5], [1, 4, 5], [2, 3, 5]], "the least loaded first, then the smallest number");
    assert_eq!(hosted, Hosted::from([(NodeId(1), 2), (NodeId(2), 2), (NodeId(3), 2), (NodeId(4), 1), (NodeId(5), 3)]));
}

#[test]
fn regional_voters_are_in_different_zones_where_they_can_be() {
    let home = |places: &[&str]| members(&planned(&sites(places), &three(), "regional:us-east").unwrap());
    assert_eq!(home(&["us-east/a", "us-east/b", "eu-west"]), (vec![1], vec![3]), "two voters lose by either's loss");
    assert_eq!(home(&["us-east/a", "us-east/a", "us-east/a"]), (vec![1, 2, 3], vec![]));
    let zones = ["us-east/a", "us-east/a", "us-east/b", "us-east/b", "us-east/c", "eu-west"];
    assert_eq!(home(&zones), (vec![1, 3, 5], vec![6]));
}

#[test]
fn the_catalog_has_a_replica_on_every_node() {
    let places = ["us-east-1", "us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1"];
    let plan = plan_catalog(&sites(&places), &five(), &["us-west-2".into()]).unwrap();
    assert_eq!(members(&plan), (vec![3, 1, 5], vec![2, 4]));
    let alone = plan_catalog(&sites(&["us-east-1"]), &five(), &[]).unwrap();
    assert_eq!(members(&alone), (vec![1], vec![]));
    assert_eq!(plan_catalog(&[], &five(), &[]).unwrap_err().reason, Reason::BadPlacement);
}

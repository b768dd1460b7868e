//! What a placement costs, predicted: the floor of every operation from every region, what is likely on top of it, how old
//! other reads are, and what is lost with a region. Pure: round trips and a plan in, figures out.
//!
//! The floor is physics ([`meridian_types::floor`]). What comes on top is a model with few terms, each of which can be
//! measured: an fsync, the work of the processes on the way, and for the 99th percentile the spread of links and disks. It is
//! held against measured runs in the tests.

use crate::planner::Plan;
use crate::planner::Site;
use meridian_types::RttMatrix;
use meridian_types::floor::{self, RoundTrips};
use meridian_types::lead_time::{LeadTerms, with_margin};
use meridian_types::{NodeId, RaftTiming, RegionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What comes on top of round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overheads {
    /// One fsync, at the median.
    pub fsync: Duration,
    /// One fsync, at the 99th percentile.
    pub fsync_p99: Duration,
    /// The work of all processes on the way of one request, at the median.
    pub work: Duration,
    /// The same at the 99th percentile.
    pub work_p99: Duration,
    /// Between two publications of closed timestamps.
    pub publish: Duration,
    /// How wide a clock's interval is: `latest - earliest`.
    pub clock_width: Duration,
}

impl Default for Overheads {
    fn default() -> Self {
        Self {
            fsync: Duration::from_micros(300),
            fsync_p99: Duration::from_millis(3),
            work: Duration::from_micros(700),
            work_p99: Duration::from_millis(3),
            publish: Duration::from_millis(20),
            clock_width: Duration::from_millis(2),
        }
    }
}

/// Part of a floor that the 99th percentile has on top, in percent: links have jitter.
const SPREAD_PERCENT: u32 = 3;

/// One operation from one region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Round trips alone.
    pub floor: Duration,
    /// Expected median.
    pub p50: Duration,
    /// Expected 99th percentile.
    pub p99: Duration,
}

/// What one region may expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionBudget {
    /// The region.
    pub region: RegionId,
    /// Whether it has a replica.
    pub replica: bool,
    /// Writes.
    pub write: Cost,
    /// Linearizable reads.
    pub linearizable: Cost,
    /// All other reads.
    pub stale: Cost,
    /// How old what such reads see may be, at the 99th percentile.
    pub staleness: Duration,
}

/// What the loss of one region means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The region that is lost.
    pub region: RegionId,
    /// Whether the rest can write on.
    pub writes_go_on: bool,
    /// For how long nobody can write; zero where the leader is not lost, `None` where nobody can write any more.
    pub pause: Option<Duration>,
}

/// A placement, priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The region that leads.
    pub leader: RegionId,
    /// The voters' regions, one item per voter.
    pub voters: Vec<RegionId>,
    /// The regions with a replica.
    pub replicas: BTreeSet<RegionId>,
    /// The shard's timers.
    pub timing: RaftTiming,
    /// How far ahead of its clock the leader will close, which is what writes wait for; `None`: it does not.
    pub lead_time: Option<Duration>,
    /// Every region, by name.
    pub regions: Vec<RegionBudget>,
    /// The loss of each region that has a voter.
    pub losses: Vec<Loss>,
}

/// A round trip that the matrix does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the round trip between {0} and {1} is not known")]
pub struct UnknownRoundTrip(pub RegionId, pub RegionId);

/// Prices a plan.
///
/// * `sites`: where the plan's nodes are.
/// * `leader`: another region to lead than the plan prefers; it has to have a voter (else the plan's is taken).
pub fn price(
    plan: &Plan,
    sites: &[Site],
    rtts: &RttMatrix,
    leader: Option<&RegionId>,
    overheads: &Overheads,
) -> Result<Budget, UnknownRoundTrip> {
    let region_of: BTreeMap<NodeId, &RegionId> = sites.iter().map(|s| (s.node, &s.region)).collect();
    let regions_of = |voters_only: bool| {
        let wanted = plan.replicas.iter().filter(move |r| r.voter || !voters_only);
        wanted.filter_map(|r| region_of.get(&r.node).map(|r| (*r).clone()))
    };
    let voters: Vec<RegionId> = regions_of(true).collect();
    let preferred = region_of.get(&plan.preferred_leader).map(|r| (*r).clone()).unwrap_or_default();
    let leader = leader.filter(|l| voters.contains(l)).cloned().unwrap_or(preferred);
    let replicas: BTreeSet<RegionId> = regions_of(false).collect();
    let all: BTreeSet<RegionId> = sites.iter().map(|s| s.region.clone()).chain(rtts.regions()).collect();
    let mut placed = Placed { rtts, leader: &leader, voters: &voters, replicas: &replicas, overheads, lead_time: None };
    if plan.lead_time {
        placed.lead_time = Some(placed.lead_time()?);
    }
    let regions = all.iter().map(|r| placed.region(r)).collect::<Result<_, _>>()?;
    let distinct: BTreeSet<&RegionId> = voters.iter().collect();
    let losses = distinct.into_iter().map(|lost| placed.loss(lost, &plan.timing)).collect();
    let lead_time = placed.lead_time;
    Ok(Budget { leader, voters, replicas, timing: plan.timing, lead_time, regions, losses })
}

struct Placed<'a> {
    rtts: &'a RttMatrix,
    leader: &'a RegionId,
    voters: &'a [RegionId],
    replicas: &'a BTreeSet<RegionId>,
    overheads: &'a Overheads,
    lead_time: Option<Duration>,
}

impl Placed<'_> {
    fn rtt(&self, a: &RegionId, b: &RegionId) -> Result<Duration, UnknownRoundTrip> {
        floor::served_in(self.rtts, a, b).ok_or_else(|| UnknownRoundTrip(a.clone(), b.clone()))
    }

    fn cost(&self, floor: Duration, fsyncs: u32) -> Cost {
        let o = self.overheads;
        let spread = floor * SPREAD_PERCENT / 100;
        Cost { floor, p50: floor + o.fsync * fsyncs + o.work, p99: floor + spread + o.fsync_p99 * fsyncs + o.work_p99 }
    }

    /// What the leader will choose (rule K4).
    fn lead_time(&self) -> Result<Duration, UnknownRoundTrip> {
        let ways = self.replicas.iter().map(|r| self.rtt(self.leader, r)).collect::<Result<Vec<_>, _>>()?;
        let voters = self.voters.iter().map(|v| self.rtt(self.leader, v)).collect::<Result<Vec<_>, _>>();
        let quorum_rtt = voters.map(|_| floor::quorum_rtt(self.rtts, self.leader, self.voters))?.unwrap_or_default();
        let terms = LeadTerms {
            quorum_rtt,
            one_way_max: ways.into_iter().max().unwrap_or_default() / 2,
            publish_interval: self.overheads.publish,
            leader_width: self.overheads.clock_width,
            reader_width: self.overheads.clock_width,
        };
        Ok(with_margin(terms.needed()))
    }

    /// A write where the leader closes ahead of its clock: on its way to the leader, and then until its timestamp is past.
    fn leading_write(&self, to_leader: Duration, write: Cost, lead: Duration, floor: Duration) -> Cost {
        let (o, way) = (self.overheads, to_leader / 2);
        let spread = way * SPREAD_PERCENT / 100;
        Cost {
            floor,
            p50: write.p50.max(way + lead + o.work),
            p99: write.p99.max(way + spread + lead + o.clock_width + o.work_p99),
        }
    }

    fn region(&self, region: &RegionId) -> Result<RegionBudget, UnknownRoundTrip> {
        for voter in self.voters {
            self.rtt(self.leader, voter)?;
        }
        let to_leader = self.rtt(region, self.leader)?;
        let replica = self.replicas.contains(region);
        let write = floor::write(self.rtts, region, self.leader, self.voters, replica);
        let mut write = self.cost(write.unwrap_or(to_leader), 1);
        // Commit wait: the stamp is the latest that the time may be, and has to be surely past.
        write.p50 = write.p50.max(self.overheads.clock_width + self.overheads.work);
        write.p99 = write.p99.max(write.p50);
        if let Some(lead) = self.lead_time {
            let replicas: Vec<RegionId> = self.replicas.iter().cloned().collect();
            let floor = floor::leading_write(self.rtts, region, self.leader, self.voters, &replicas);
            write = self.leading_write(to_leader, write, lead, floor.unwrap_or(write.floor));
        }
        let nearest = self.replicas.iter().map(|r| self.rtt(region, r)).collect::<Result<Vec<_>, _>>()?;
        let nearest = nearest.into_iter().min().unwrap_or_default();
        let server = if replica { region } else { self.leader };
        let one_way = self.rtt(self.leader, server)? / 2;
        // A promise is made every `publish`, at the earliest that the time may be, and what it covers has to come too.
        let staleness = one_way + self.overheads.publish * 2 + self.overheads.clock_width + self.overheads.work_p99;
        let mut linearizable = self.cost(if self.lead_time.is_some() { nearest } else { to_leader }, 0);
        if self.lead_time.is_some() {
            // A version that is just about to be past is waited for.
            linearizable.p99 += self.overheads.clock_width;
        }
        Ok(RegionBudget {
            region: region.clone(),
            replica,
            write,
            linearizable,
            stale: self.cost(nearest, 0),
            staleness,
        })
    }

    fn loss(&self, lost: &RegionId, timing: &RaftTiming) -> Loss {
        let left: Vec<&RegionId> = self.voters.iter().filter(|v| *v != lost).collect();
        let writes_go_on = left.len() > self.voters.len() / 2;
        let pause =
            writes_go_on.then(|| if lost == self.leader { self.failover(&left, timing) } else { Duration::ZERO });
        Loss { region: lost.clone(), writes_go_on, pause }
    }

    /// The promised lease, then three round trips between the voters that are left: pre-vote, vote, the new leader's first
    /// entries.
    fn failover(&self, left: &[&RegionId], timing: &RaftTiming) -> Duration {
        let apart = left.iter().flat_map(|a| left.iter().filter_map(|b| self.rtts.round_trip(a, b)));
        timing.promise() + apart.max().unwrap_or_default() * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{Hosted, plan};
    use crate::presets;
    use meridian_types::{Placement, ZoneId};

    fn sites(regions: &[&str]) -> Vec<Site> {
        let site =
            |(i, r): (usize, &&str)| Site { node: NodeId(i as u64 + 1), region: (*r).into(), zone: ZoneId::from("a") };
        regions.iter().enumerate().map(site).collect()
    }

    fn three(placement: &str, leader: Option<&str>) -> Budget {
        let (sites, rtts) = (sites(&["us-east", "eu-west", "ap-northeast"]), presets::three());
        let plan = plan(&sites, &rtts, &Placement::parse(placement).unwrap(), &mut Hosted::new()).unwrap();
        price(&plan, &sites, &rtts, leader.map(RegionId::from).as_ref(), &Overheads::default()).unwrap()
    }

    fn floors(budget: &Budget) -> Vec<(&str, u128, u128)> {
        let ms = |c: Cost| c.floor.as_millis();
        budget.regions.iter().map(|r| (r.region.as_str(), ms(r.write), ms(r.linearizable))).collect()
    }

    #[test]
    fn three_regions_pay_one_round_trip() {
        let budget = three("global:us-east", None);
        assert_eq!(floors(&budget), [("ap-northeast", 140, 140), ("eu-west", 70, 70), ("us-east", 70, 0)]);
        for r in &budget.regions {
            for cost in [r.write, r.linearizable, r.stale] {
                assert!(cost.floor < cost.p50 && cost.p50 < cost.p99, "{r:?}");
            }
            assert!(r.replica && r.stale.floor.is_zero());
        }
    }

    #[test]
    fn global_reads_are_local_and_writes_pay_for_it() {
        let budget = three("global-reads:us-east", None);
        // The quorum and the way to ap-northeast: 140; and the way from the origin to the leader.
        assert_eq!(floors(&budget), [("ap-northeast", 210, 0), ("eu-west", 175, 0), ("us-east", 140, 0)]);
        let lead = budget.lead_time.unwrap();
        assert!(lead >= Duration::from_millis(140 + 20 + 4) && lead < Duration::from_millis(240), "{lead:?}");
        for r in &budget.regions {
            assert!(r.linearizable.p99 < Duration::from_millis(10), "{r:?}");
            assert!(r.write.floor < r.write.p50 && r.write.p50 < r.write.p99 && r.write.p50 > lead, "{r:?}");
        }
        assert_eq!(three("global:us-east", None).lead_time, None);
        let far = three("global-reads:us-east", Some("ap-northeast"));
        assert!(far.lead_time.unwrap() > lead, "from there both ways are longer");
    }

    #[test]
    fn another_leader_is_another_price() {
        let budget = three("global:us-east", Some("eu-west"));
        assert_eq!((budget.leader.as_str(), budget.voters.len()), ("eu-west", 3));
        assert_eq!(floors(&budget), [("ap-northeast", 210, 210), ("eu-west", 70, 0), ("us-east", 70, 70)]);
    }

    #[test]
    fn a_regional_table_is_lost_with_its_home() {
        let budget = three("regional:eu-west", None);
        assert_eq!(floors(&budget)[1], ("eu-west", 0, 0));
        assert_eq!(budget.losses, [Loss { region: "eu-west".into(), writes_go_on: false, pause: None }]);
        let global = three("global:us-east", None);
        let pauses: Vec<_> =
            global.losses.iter().map(|l| (l.region.as_str(), l.pause.map(|p| p.as_millis()))).collect();
        assert_eq!(pauses, [("ap-northeast", Some(0)), ("eu-west", Some(0)), ("us-east", Some(830 + 3 * 210))]);
    }

    #[test]
    fn a_clock_wider_than_the_round_trip_is_waited_for() {
        let (sites, rtts) = (sites(&["us-east"]), RttMatrix::default());
        let plan = plan(&sites, &rtts, &Placement::parse("regional:us-east").unwrap(), &mut Hosted::new()).unwrap();
        let wide = Overheads { clock_width: Duration::from_millis(20), ..Overheads::default() };
        let budget = price(&plan, &sites, &rtts, None, &wide).unwrap();
        assert!(budget.regions[0].write.p50 >= Duration::from_millis(20));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let sites = sites(&["us-east"]);
        let mut rtts = RttMatrix::default();
        rtts.set("mars".into(), "eu-west".into(), Duration::from_secs(600));
        let plan = plan(&sites, &rtts, &Placement::parse("regional:us-east").unwrap(), &mut Hosted::new());
        let price = price(&plan.unwrap(), &sites, &rtts, None, &Overheads::default());
        assert!(price.unwrap_err().to_string().contains("not known"));
    }
}

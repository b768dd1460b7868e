//! Placement presets.

use meridian_proto::v1::{self as pb, placement::Preset};
use meridian_types::{Error, Placement, Reason, RegionId};

/// Region losses that a `global` placement survives when the request does not say.
const DEFAULT_SURVIVE: u32 = 1;

/// To the wire.
pub fn encode(placement: &Placement) -> pb::Placement {
    let preset = match placement {
        Placement::Global { leader, survive } => {
            Preset::Global(pb::placement::Global { leader: names(leader), survive: *survive })
        }
        Placement::GlobalReads { leader, survive } => {
            Preset::GlobalReads(pb::placement::GlobalReads { leader: names(leader), survive: *survive })
        }
        Placement::Regional { home } => Preset::Regional(pb::placement::Regional { home: home.as_str().to_owned() }),
    };
    pb::Placement { preset: Some(preset) }
}

/// From the wire; nothing set means `global` without a leader preference.
///
/// Errors: [`Reason::BadPlacement`] for an empty region name. Whether the regions exist is the catalog's to say.
pub fn decode(message: Option<pb::Placement>) -> Result<Placement, Error> {
    match message.and_then(|m| m.preset) {
        None => Ok(Placement::Global { leader: Vec::new(), survive: DEFAULT_SURVIVE }),
        Some(Preset::Global(g)) => Ok(Placement::Global { leader: regions(g.leader)?, survive: survive(g.survive) }),
        Some(Preset::GlobalReads(g)) => {
            Ok(Placement::GlobalReads { leader: regions(g.leader)?, survive: survive(g.survive) })
        }
        Some(Preset::Regional(r)) => Ok(Placement::Regional { home: region(r.home)? }),
    }
}

fn names(regions: &[RegionId]) -> Vec<String> {
    regions.iter().map(|r| r.as_str().to_owned()).collect()
}

fn regions(names: Vec<String>) -> Result<Vec<RegionId>, Error> {
    names.into_iter().map(region).collect()
}

fn survive(said: u32) -> u32 {
    if said == 0 { DEFAULT_SURVIVE } else { said }
}

fn region(name: String) -> Result<RegionId, Error> {
    if name.is_empty() {
        return Err(Error::new(Reason::BadPlacement, "a region's name is empty; name one of the cluster's regions"));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_round_trip() {
        for text in
            ["global", "global:us-east,eu-west", "global-reads", "global-reads:us-east,eu-west", "regional:eu-west"]
        {
            let placement = Placement::parse(text).unwrap();
            assert_eq!(decode(Some(encode(&placement))), Ok(placement));
        }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let global = pb::placement::Global { leader: vec![], survive: 0 };
        let message = pb::Placement { preset: Some(Preset::Global(global)) };
        let default = Placement::parse("global").unwrap();
        assert_eq!(decode(Some(message)), Ok(default.clone()));
        assert_eq!(decode(None), Ok(default));
        let reads = Preset::GlobalReads(pb::placement::GlobalReads::default());
        assert_eq!(decode(Some(pb::Placement { preset: Some(reads) })), Ok(Placement::parse("global-reads").unwrap()));
    }

    #[test]
    fn a_nameless_region_is_refused() {
        let message = pb::Placement { preset: Some(Preset::Regional(pb::placement::Regional { home: String::new() })) };
        assert_eq!(decode(Some(message)).unwrap_err().reason, Reason::BadPlacement);
    }
}

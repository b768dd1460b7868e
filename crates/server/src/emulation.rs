//! The emulated wide area of a local cluster: a link for every pair of zone and node elsewhere, and their control.

use crate::layout::{Layout, LinkPort};
use crate::ports;
use meridian_types::NodeId;
use meridian_wan::{Endpoint, Place, Wan, WanError, control};
use std::io;
use std::net::{SocketAddr, TcpListener};
use tokio::task::AbortHandle;

/// Running links; dropping it cuts every connection that runs over them.
#[derive(Debug)]
pub struct Emulation {
    wan: Wan,
    control: SocketAddr,
    server: AbortHandle,
}

/// Why there is no emulated network.
#[derive(Debug, thiserror::Error)]
pub enum EmulationError {
    /// A link that cannot be made.
    #[error(transparent)]
    Link(#[from] WanError),
    /// The control cannot listen.
    #[error("the link control cannot listen on loopback: {0}")]
    Control(#[from] io::Error),
}

impl Emulation {
    /// Makes the links that the layout lacks or lists, on the listed ports where those are free, and writes into the
    /// layout where they are. Has to be called inside a tokio runtime; `seed` decides the jitter.
    pub fn start(layout: &mut Layout, seed: u64) -> Result<Self, EmulationError> {
        let wan = Wan::new(layout.topology.clone(), seed);
        let mut links = Vec::new();
        for from in layout.topology.endpoints() {
            for spec in layout.topology.nodes() {
                let to = spec.endpoint();
                let Some(target) = layout.ports(spec.id).map(|n| n.grpc).filter(|_| to != from) else { continue };
                let place = Place::from(from.clone());
                let known = layout.links.iter().find(|l| l.from == place && l.to == spec.id).map(|l| l.listen);
                let listen = link(&wan, known, (&from, &to), target)?;
                links.push(LinkPort { from: place, to: spec.id, listen });
            }
        }
        let listener = control_listener(layout.link_control)?;
        let control = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let served = wan.clone();
        let server = tokio::spawn(async move {
            if let Err(error) = control::serve(served, listener).await {
                tracing::error!("the link control has ended: {error}");
            }
        });
        (layout.links, layout.link_control) = (links, Some(control));
        Ok(Self { wan, control, server: server.abort_handle() })
    }

    /// The links.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// Where they are controlled over HTTP.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// The address that a program in this zone has to dial in order to reach a node as from there.
    pub fn dial_address(&self, layout: &Layout, from: &Endpoint, to: NodeId) -> Option<SocketAddr> {
        let place = Place::from(from.clone());
        let link = layout.links.iter().find(|l| l.from == place && l.to == to).map(|l| l.listen);
        link.or_else(|| layout.ports(to).map(|n| n.grpc))
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A link on the known port; on another if that is taken meanwhile, because only this machine's nodes dial it.
fn link(
    wan: &Wan,
    known: Option<SocketAddr>,
    (from, to): (&Endpoint, &Endpoint),
    target: SocketAddr,
) -> Result<SocketAddr, WanError> {
    let on = |listen| wan.link_on(listen, from, to, target);
    let in_use =
        |e: &WanError| matches!(e, WanError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    match known.map(on) {
        Some(Err(error)) if in_use(&error) => {
            tracing::warn!("the link from {from} to {target} moves to another port: {error}");
        }
        Some(other) => return other,
        None => {}
    }
    ports::with_free(on, in_use)
}

fn control_listener(known: Option<SocketAddr>) -> io::Result<TcpListener> {
    match known.map(TcpListener::bind) {
        Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!("the link control moves to another port: {error}");
            ports::listen_free()
        }
        Some(other) => other,
        None => ports::listen_free(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Ports;
    use meridian_wan::{Topology, WanControl};

    fn layout(preset: &str, nodes: u32) -> Layout {
        let topology = Topology::preset(preset).unwrap().with_nodes_per_region(nodes);
        Layout::claim(topology, Ports::Free).unwrap().0
    }

    #[tokio::test]
    async fn every_zone_has_a_link_to_every_node_elsewhere() {
        let mut layout = layout("three", 2);
        let emulation = Emulation::start(&mut layout, 1).unwrap();
        assert_eq!(layout.links.len(), 3 * 4);
        let us = Endpoint { region: "us-east".into(), zone: "a".into() };
        assert_eq!(layout.dial_via(&us).len(), 4, "nodes 1 and 2 are dialled directly");
        assert_eq!(emulation.dial_address(&layout, &us, NodeId(2)), Some(layout.nodes[1].grpc));
        let far = emulation.dial_address(&layout, &us, NodeId(3)).unwrap();
        assert_eq!(layout.dial_via(&us)[&layout.nodes[2].grpc.to_string()], far.to_string());
        let seen = WanControl::new(emulation.control()).links().await.unwrap();
        assert!(seen.iter().any(|l| l.listen == far && l.target == layout.nodes[2].grpc));
    }

    #[tokio::test]
    async fn zones_of_one_region_are_linked_too() {
        let mut layout = layout("lan", 3);
        let _emulation = Emulation::start(&mut layout, 1).unwrap();
        assert_eq!(layout.links.len(), 3 * 2);
    }

    #[tokio::test]
    async fn ports_are_kept_unless_somebody_else_has_taken_one() {
        let mut layout = layout("three", 1);
        drop(Emulation::start(&mut layout, 1).unwrap());
        let before = layout.clone();
        // The aborted tasks drop their sockets when they are next scheduled.
        while TcpListener::bind(before.links[0].listen).is_err() {
            tokio::task::yield_now().await;
        }
        let thief = TcpListener::bind(before.links[0].listen).unwrap();
        let free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
        while !before.links[1..].iter().map(|l| l.listen).chain(before.link_control).all(|a| free(&a)) {
            tokio::task::yield_now().await;
        }
        let _emulation = Emulation::start(&mut layout, 1).unwrap();
        assert_eq!((&layout.links[1..], layout.link_control), (&before.links[1..], before.link_control));
        assert_ne!(layout.links[0].listen, before.links[0].listen);
        drop(thief);
    }
}

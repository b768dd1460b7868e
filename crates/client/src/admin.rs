//! Tables and the cluster: typed arguments, the API's own messages as results.
//!
//! These calls carry no request id. They are repeated after a refusal that did nothing, never after a lost answer.

use crate::attempts::Operation;
use crate::client::REPLY_BYTES_MAX;
use crate::{Client, Error};
use bytes::Bytes;
use meridian_proto::v1::cluster_client::ClusterClient;
use meridian_proto::v1::tables_client::TablesClient;
use meridian_proto::v1::{self as pb};
use meridian_transport::Channel;
use meridian_types::{Error as Cause, NodeId, Placement, Reason, ShardId};
use std::time::Duration;

/// A gateway waits up to half a minute until every shard of a new table has a leader, however many there are.
const CREATE_PATIENCE: Duration = Duration::from_secs(35);

/// What a table may have other than the cluster's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableOptions {
    /// How long old versions are kept; `None`: as the cluster says.
    pub gc_ttl: Option<Duration>,
    /// Writes are acknowledged by their leader only, never earlier by the region that they came from.
    pub classic_commit: bool,
}

impl Client {
    /// Creates a table, split into shards at `split_keys` (sorted, distinct); returns when its shards have leaders.
    pub async fn create_table(
        &self,
        name: &str,
        placement: &Placement,
        split_keys: Vec<Bytes>,
    ) -> Result<pb::Table, Error> {
        self.create_table_with(name, placement, split_keys, TableOptions::default()).await
    }

    /// As [`Client::create_table`], for a table that differs from others in more than its placement.
    pub async fn create_table_with(
        &self,
        name: &str,
        placement: &Placement,
        split_keys: Vec<Bytes>,
        options: TableOptions,
    ) -> Result<pb::Table, Error> {
        let placement = Some(meridian_wire::placement::encode(placement));
        let TableOptions { gc_ttl, classic_commit } = options;
        let gc_ttl_ns = gc_ttl.map_or(0, |ttl| u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX).max(1));
        let request =
            pb::CreateTableRequest { name: name.to_owned(), placement, split_keys, gc_ttl_ns, classic_commit };
        let send = |c, r| async move { tables(c).create_table(r).await };
        let (reply, attempts) = self.call_patiently(CREATE_PATIENCE, Operation::Once, request, send).await?;
        described(reply.table, attempts)
    }

    /// All tables.
    pub async fn list_tables(&self) -> Result<Vec<pb::Table>, Error> {
        let send = |c, r| async move { tables(c).list_tables(r).await };
        let (reply, _) = self.call(Operation::Read, pb::ListTablesRequest {}, send).await?;
        Ok(reply.tables)
    }

    /// One table, its shards and their replicas.
    pub async fn describe_table(&self, name: &str) -> Result<pb::Table, Error> {
        let request = pb::DescribeTableRequest { name: name.to_owned() };
        let send = |c, r| async move { tables(c).describe_table(r).await };
        let (reply, attempts) = self.call(Operation::Read, request, send).await?;
        described(reply.table, attempts)
    }

    /// Drops a table and all its data.
    pub async fn drop_table(&self, name: &str) -> Result<(), Error> {
        let request = pb::DropTableRequest { name: name.to_owned() };
        let send = |c, r| async move { tables(c).drop_table(r).await };
        self.call(Operation::Once, request, send).await?;
        Ok(())
    }

    /// The cluster as the gateway sees it; with `local_only` the gateway itself, without asking other nodes.
    pub async fn status(&self, local_only: bool) -> Result<pb::GetStatusReply, Error> {
        let send = |c, r| async move { cluster(c).get_status(r).await };
        let (reply, _) = self.call(Operation::Read, pb::GetStatusRequest { local_only }, send).await?;
        Ok(reply)
    }

    /// Moves a shard's leadership to another of its voters.
    pub async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), Error> {
        let request = pb::TransferLeaderRequest { shard: shard.0, to: to.0 };
        let send = |c, r| async move { cluster(c).transfer_leader(r).await };
        self.call(Operation::Once, request, send).await?;
        Ok(())
    }
}

fn described(table: Option<pb::Table>, attempts: u32) -> Result<pb::Table, Error> {
    table.ok_or_else(|| {
        let cause = Cause::new(Reason::Internal, "the gateway's reply describes no table; compare versions");
        Error { cause, request_id: None, attempts }
    })
}

fn tables(channel: Channel) -> TablesClient<Channel> {
    TablesClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX)
}

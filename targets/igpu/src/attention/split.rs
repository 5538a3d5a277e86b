//! Attention of single rows: a row's positions spread over workgroups, the result in parts.
//!
//! Decode reads each key and value once whatever the kernel does, so what counts is bytes in flight: every thread has
//! its loads of a whole tile of positions on the way before it waits for anything. The workgroup's threads are cut
//! twice: for the products, [`Shape::lanes`] neighbours share a key, each with 16-byte pieces of it; for the sums, a
//! thread has one piece of the head and every so many-th position. Subgroups that have a position each, adding up in
//! registers, wait for nobody and yet are slower: adding up over lanes takes longer than workgroup memory.

use super::chunk::{Chunk, is_f16};
use super::{Attend, Partials, SPLITS, batches, unsupported, wraps};
use crate::bindings::Bindings;
use crate::constants;
use crate::error::LowerError;
use crate::kernel::{Constants, Spec, VariantSpec};
use crate::lowering::Lowering;
use crate::rows::{literal, set_name};
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::gpu::{Access, Extent, Needs};
use gembin_bundle::manifest::{Buffer, Cache};

/// Most elements of a workgroup's queries: what workgroup memory holds.
const MOST_ELEMENTS: u32 = 2048;
/// Workgroup memory that every device has which one would run this on.
const WORKGROUP_BYTES: u32 = 32 << 10;
/// Positions of a row from which on throughput counts for more than latency.
const MANY_POSITIONS: u32 = 1024;

/// Norms, rotation and storing, done by the same dispatch.
struct Rope {
    qkv: Buffer,
    table: Buffer,
    q_norm: Option<u32>,
    k_norm: Option<u32>,
    eps: f32,
}

/// One sequence a row: norms, rotation, storing and attention in one dispatch.
pub(crate) fn rope_attention(
    l: &mut Lowering<'_>,
    label: &str,
    rope_kv: &CpuStep,
    attention: &CpuStep,
) -> Result<Partials, LowerError> {
    let attend = Attend::of(l, label, attention)?;
    let CpuStep::RopeKv {
        qkv,
        table,
        cache,
        q_heads,
        q_norm,
        k_norm,
        eps,
        out,
    } = rope_kv
    else {
        return Err(unsupported(label, "what comes before is no rotation"));
    };
    if *out != attend.q || *cache != attend.cache || *q_heads != attend.heads {
        return Err(unsupported(
            label,
            "it does not attend with what was rotated before",
        ));
    }
    let rope = Rope {
        qkv: *qkv,
        table: *table,
        q_norm: *q_norm,
        k_norm: *k_norm,
        eps: *eps,
    };
    split(l, label, &attend, Some(&rope))
}

/// Rows whose queries are rotated and whose keys and values are stored.
pub(super) fn attend_rows(
    l: &mut Lowering<'_>,
    label: &str,
    attend: &Attend<'_>,
) -> Result<Partials, LowerError> {
    split(l, label, attend, None)
}

fn split(
    l: &mut Lowering<'_>,
    label: &str,
    attend: &Attend<'_>,
    rope: Option<&Rope>,
) -> Result<Partials, LowerError> {
    let cache = attend.shape;
    let partials = attend.partials();
    let input = rope.map_or(attend.q, |rope| rope.qkv);
    let cache_access = match rope {
        Some(_) => Access::ReadWrite,
        None => Access::Read,
    };
    let mut bound = Bindings::default();
    let input_binding = bound.read(input);
    let [keys, values] = bound.cache(cache_access, attend.cache, cache);
    let output = bound.write(partials.parts);
    let call = bound.call();
    let mut norms = [None, None];
    let mut table = None;
    let mut name = "attention_split".to_owned();
    if let Some(rope) = rope {
        table = Some(bound.read(rope.table));
        norms = [rope.q_norm, rope.k_norm].map(|norm| norm.map(|w| bound.vector(w, l.weight(w))));
        let [q, k] = norms.map(|norm| if norm.is_some() { "norm" } else { "as is" });
        name += &format!(" rope q {q} k {k} eps {:?}", rope.eps);
    }
    let rows = set_name(input.rows);
    name += &format!(" {rows} {}", attend.name(l));
    let constants = constants! {
        rope: rope.is_some(),
        rows: rows,
        input_binding: input_binding,
        keys_binding: keys,
        values_binding: values,
        output_binding: output,
        call_binding: call,
        table_binding: table,
        q_norm: norms[0],
        k_norm: norms[1],
        eps: literal(rope.map_or(0.0, |rope| rope.eps)),
        input_cols: input.cols,
        cache_access: if rope.is_some() { "read_write" } else { "read" },
        head_dim: cache.head_dim,
        heads: attend.heads,
        kv_heads: cache.kv_heads,
        group: attend.group(),
        capacity: cache.capacity,
        wraps: wraps(l, cache),
        window: cache.window.unwrap_or(0),
        f16: is_f16(cache),
        splits: SPLITS,
        part_words: partials.parts.cols,
        scale: literal(attend.scale),
        softcap: if attend.softcap == 0.0 { None } else { Some(literal(attend.softcap)) },
    };
    let context = l.limits().context;
    let positions = cache.window.map_or(context, |window| window.min(context));
    let spec = Spec {
        name,
        bindings: bound.needs,
        variants: vec![Shape::of(cache, attend.group(), positions).variant(cache, constants)],
    };
    let work = [
        Extent::Fixed(attend.heads),
        Extent::Fixed(SPLITS),
        Extent::Rows(input.rows),
    ];
    l.dispatch(label, spec, bound.resources, Vec::new(), work)?;
    Ok(partials)
}

/// How a workgroup's threads share the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    /// Threads of a workgroup.
    threads: u32,
    chunk: Chunk,
    /// Chunks of a head.
    chunks: u32,
    /// Query heads of a workgroup.
    queries: u32,
    /// Workgroups that share a KV head's queries.
    batches: u32,
    /// Threads that share a key.
    lanes: u32,
    /// Positions of a tile.
    tile: u32,
}

impl Shape {
    /// For rows of which most have up to `positions` to look at.
    fn of(cache: &Cache, group: u32, positions: u32) -> Self {
        // More workgroups do less each, but read the same keys.
        let most_queries = match group <= 4 {
            true => 2,
            false => 4,
        };
        let chunk = Chunk::of(cache);
        let chunks = cache.head_dim / chunk.elements();
        // Most of a short row's time is that of one workgroup's instructions, one after the other. Every chunk of a
        // value needs a thread.
        let threads = match positions <= MANY_POSITIONS && cache.head_dim / chunk.part <= 128 {
            true => 128,
            false => 256,
        };
        let most = (MOST_ELEMENTS / cache.head_dim).clamp(1, most_queries);
        let batches = batches(group, most);
        // About four chunks a thread, but eight neighbours, 128 bytes together, where there is that much.
        let floor_power = |n: u32| 1 << n.max(1).ilog2();
        let lanes = floor_power(chunks / 4)
            .clamp(8, 32)
            .min(floor_power(chunks));
        Self {
            threads,
            chunk,
            chunks,
            queries: group / batches,
            batches,
            lanes,
            tile: threads / lanes,
        }
    }

    fn variant(self, cache: &Cache, mut constants: Constants) -> VariantSpec {
        // A team for each head, and one for the new key.
        let team = match self.queries < self.threads / 32 {
            true => 32,
            false => 16,
        };
        constants.extend(constants! {
            threads: self.threads,
            words: self.chunk.words,
            parts: self.chunk.parts,
            part: self.chunk.part,
            chunks: self.chunks,
            queries: self.queries,
            batches: self.batches,
            lanes: self.lanes,
            tile: self.tile,
            dot_plane: self.dot_plane(),
            key_loads: self.chunks.div_ceil(self.lanes),
            value_parts: self.value_parts(cache),
            value_chunks: self.value_chunks(cache),
            value_groups: self.value_groups(cache),
            value_loads: self.tile.div_ceil(self.value_groups(cache)),
            softmax_loads: (self.queries * self.tile).div_ceil(self.threads),
            merged: self.merged(cache),
            team: team,
            pairs: (cache.head_dim / 2).div_ceil(team),
            least: self.tile,
        });
        VariantSpec {
            name: "portable",
            template: "attention_split",
            constants,
            needs: Needs::default(),
            subgroup: None,
            tile: [self.queries, 1, 1],
            activations: None,
        }
    }

    /// Distance of two lanes' sums: such that a subgroup's writes fall into different banks.
    fn dot_plane(self) -> u32 {
        self.tile.next_multiple_of(32) + 32 / self.lanes
    }

    /// Vectors of elements that a thread loads of a value at once: 8 bytes of halves, for then few threads have sums of
    /// the same elements, to be merged in the end.
    fn value_parts(self, cache: &Cache) -> u32 {
        match is_f16(cache) {
            true => 1,
            false => self.chunk.parts,
        }
    }

    /// Threads that share a value.
    fn value_chunks(self, cache: &Cache) -> u32 {
        cache.head_dim / (self.value_parts(cache) * self.chunk.part)
    }

    /// Threads that have the same elements of the values, each with its own positions.
    fn value_groups(self, cache: &Cache) -> u32 {
        (self.threads / self.value_chunks(cache)).min(self.tile)
    }

    /// Queries whose sums are merged at a time: those that workgroup memory has room for beside everything else.
    fn merged(self, cache: &Cache) -> u32 {
        let words = (self.queries + 1) * cache.head_dim
            + self.queries * self.lanes * self.dot_plane()
            + 2 * self.queries * self.tile
            + self.threads
            + self.queries;
        let sums = self.value_groups(cache) * cache.head_dim;
        ((WORKGROUP_BYTES / 4).saturating_sub(words) / sums).clamp(1, self.queries)
    }
}

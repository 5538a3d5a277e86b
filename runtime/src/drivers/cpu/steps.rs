//! What each step does on a team of threads: who computes which part, and where threads meet within a step.
//!
//! A linear of one row is prepared by every thread for itself (a few thousand multiplications are cheaper than meeting);
//! of more rows, each thread prepares some rows into the step's scratch and they meet before the product.

use super::Loaded;
use super::activations::{Prologue, RowPlaces, prepare_row, prepared_row_bytes};
use super::attention::{self, Tile};
use super::elementwise::{Each, each, embed_row, rms_norm};
use super::linear::{PANEL_BYTES, Product, SUM_COLS, product, tiling};
use super::memory::Aligned;
use super::pool::{Broken, Team};
use super::rope::{self, Head};
use crate::drivers::{Call, DriverError, Row};
use gembin_bundle::cpu::{CpuStep, Epilogue, LinearStep, rows_of};
use gembin_bundle::layout::BLOCK_ROWS;
use gembin_bundle::manifest::{Buffer, Manifest, Plan, RowSet, Work};
use std::ops::Range;

/// Rows that a tile of attention may have: with one query head a KV head.
const MAX_TILE_ROWS: usize = 32;
/// Attention spreads chunks over threads while there are fewer (row, KV head) pairs than this a thread.
const SPREAD_PAIRS: usize = 2;
/// Elements that are not worth splitting further.
const SPLIT_ELEMENTS: usize = 64;

/// Private memory of the threads, and partial results of attention that they share.
pub(super) struct Workspace {
    memory: Aligned,
    /// Bytes of a thread.
    stride: usize,
    prepared: usize,
    panel: usize,
    sums: usize,
    attention: usize,
    /// Shared partial results.
    partials: usize,
    partials_len: usize,
}

impl Workspace {
    /// Sizes everything for the largest step of the plan.
    pub fn new(manifest: &Manifest, plan: &Plan, threads: usize) -> Result<Self, DriverError> {
        let (mut cols, mut rows, mut scratch, mut partials) = (64, 1, 0, 0);
        for program in &plan.programs {
            rows = rows.max(program.max_rows.max(program.max_outs) as usize);
            for step in &program.steps {
                let Work::Cpu(step) = &step.work else {
                    continue;
                };
                match step {
                    CpuStep::Linear(step) => {
                        cols = cols.max(step.x.cols as usize);
                    }
                    CpuStep::Attention { cache, heads, .. } => {
                        let cache = &manifest.arena.caches[*cache as usize];
                        let group = (*heads / cache.kv_heads.max(1)).max(1) as usize;
                        let head_dim = cache.head_dim as usize;
                        scratch = scratch.max(attention::scratch_len(group, head_dim));
                        let seen = cache.window.unwrap_or(u32::MAX);
                        let seen = seen.min(manifest.limits.context) as usize;
                        let chunks = SPREAD_PAIRS * threads * (seen / attention::CHUNK + 2);
                        partials = partials.max(chunks * group * attention::partial_len(head_dim));
                    }
                    CpuStep::RopeKv { cache, .. } => {
                        cols = cols.max(manifest.arena.caches[*cache as usize].head_dim as usize);
                    }
                    CpuStep::Embed { .. }
                    | CpuStep::RopeTable { .. }
                    | CpuStep::SelectRows { .. }
                    | CpuStep::RmsNorm { .. }
                    | CpuStep::Rope { .. }
                    | CpuStep::KvWrite { .. }
                    | CpuStep::Columns { .. }
                    | CpuStep::Gelu { .. }
                    | CpuStep::Mul { .. }
                    | CpuStep::Add { .. }
                    | CpuStep::Softcap { .. } => {}
                }
            }
        }
        let page = |bytes: usize| bytes.next_multiple_of(4096);
        let cols = cols.next_multiple_of(64);
        let prepared = page(cols * 4);
        let panel = prepared + page(cols * 5);
        let sums = panel + page(PANEL_BYTES);
        let attention = sums + page(rows * SUM_COLS * 4);
        let stride = attention + page(scratch * 4);
        Ok(Self {
            memory: Aligned::new(stride * threads + partials * 4)?,
            stride,
            prepared,
            panel,
            sums,
            attention,
            partials: stride * threads,
            partials_len: partials,
        })
    }

    fn at(&self, thread: usize, offset: usize) -> *mut u8 {
        // SAFETY: threads are fewer than those the memory was sized for, and offsets lie within a thread's stride.
        unsafe { self.memory.base().add(thread * self.stride + offset) }
    }

    fn row(&self, thread: usize) -> *mut f32 {
        self.at(thread, 0).cast()
    }

    fn attention(&self, thread: usize) -> *mut f32 {
        self.at(thread, self.attention).cast()
    }

    fn partials(&self) -> *mut f32 {
        self.at(0, self.partials).cast()
    }
}

/// Frequencies of the plan's rope tables.
pub(super) fn frequencies(plan: &Plan) -> Vec<Vec<Box<[f32]>>> {
    let of = |step: &gembin_bundle::manifest::Step| {
        if let Work::Cpu(CpuStep::RopeTable { theta, factor, out }) = &step.work {
            rope::inverse_frequencies(*theta, *factor, out.cols as usize)
        } else {
            Box::default()
        }
    };
    plan.programs
        .iter()
        .map(|p| p.steps.iter().map(of).collect())
        .collect()
}

impl Loaded {
    /// First element of a buffer's row.
    fn row_of(&self, buffer: Buffer, row: usize) -> *mut f32 {
        let offset = buffer.offset as usize + row * buffer.cols as usize * 4;
        // SAFETY: the manifest's check proved that the buffer's rows lie in the arena for calls within the program's
        // row limits, which `check_call` holds this call to.
        unsafe { self.context.arena.base().add(offset).cast() }
    }

    fn vector(&self, weight: Option<u32>) -> *const f32 {
        weight.map_or(std::ptr::null(), |w| self.weights[w as usize].values())
    }

    /// This thread's part of a step.
    pub(super) fn execute(
        &self,
        program: usize,
        step: usize,
        call: Call<'_>,
        team: &Team<'_>,
    ) -> Result<(), Broken> {
        let Work::Cpu(work) = &self.plan().programs[program].steps[step].work else {
            // Another device's; `check_call` has refused the call.
            return Ok(());
        };
        let rows_in = |set: RowSet| rows_of(set, call.rows.len(), call.outs.len());
        let row_at = |set: RowSet, i: usize| match set {
            RowSet::Seq => call.rows[i],
            RowSet::Out => call.rows[call.outs[i] as usize],
        };
        match work {
            CpuStep::Embed { table, scale, out } => {
                let table = &self.weights[*table as usize];
                for i in team.share(rows_in(out.rows)) {
                    let token = row_at(out.rows, i).token as usize;
                    assert!(token < table.rows, "token {token} of {} rows", table.rows);
                    // SAFETY: the token is a row of the table, whose columns the output has.
                    unsafe { embed_row(table, token, *scale, self.row_of(*out, i)) };
                }
            }
            CpuStep::RopeTable { out, .. } => {
                let frequencies = &self.frequencies[program][step];
                for i in team.share(rows_in(out.rows)) {
                    // SAFETY: a row of the buffer, written by this thread alone.
                    let row = unsafe {
                        std::slice::from_raw_parts_mut(self.row_of(*out, i), out.cols as usize)
                    };
                    rope::fill_table(frequencies, row_at(out.rows, i).pos, row);
                }
            }
            CpuStep::Linear(step) => return self.linear(step, rows_in(step.x.rows), team),
            CpuStep::RopeKv {
                qkv,
                table,
                cache,
                q_heads,
                q_norm,
                k_norm,
                eps,
                out,
            } => {
                let cache = &self.caches[*cache as usize];
                let (q_heads, d) = (*q_heads as usize, cache.head_dim);
                let heads = q_heads + 2 * cache.kv_heads;
                for item in team.share(rows_in(qkv.rows) * heads) {
                    let (i, head) = (item / heads, item % heads);
                    let row = row_at(qkv.rows, i);
                    // SAFETY: the check proved `qkv` to have these heads, `table` a head's columns and `out` the query
                    // heads; slot and position are within the cache's; the private row holds a head.
                    unsafe {
                        let x = self.row_of(*qkv, i).add(head * d).cast_const();
                        let mut rotated = Head {
                            x,
                            table: self.row_of(*table, i),
                            norm: self.vector(*q_norm),
                            eps: *eps,
                            head_dim: d,
                            out: self.workspace.row(team.thread),
                        };
                        if head < q_heads {
                            rotated.out = self.row_of(*out, i).add(head * d);
                            rope::rotate(self.isa, &rotated);
                            continue;
                        }
                        let kv_head = (head - q_heads) % cache.kv_heads;
                        let at = cache.row_offset(row.slot as usize, kv_head, row.pos as usize);
                        if head < q_heads + cache.kv_heads {
                            rotated.norm = self.vector(*k_norm);
                            rope::rotate(self.isa, &rotated);
                            let to = cache.keys.add(at);
                            rope::store_head(self.isa, rotated.out, d, cache.is_f16, to);
                        } else {
                            let to = cache.values.add(at);
                            rope::store_head(self.isa, x, d, cache.is_f16, to);
                        }
                    }
                }
            }
            CpuStep::Rope { x, table, out } => {
                let d = table.cols as usize;
                let heads = x.cols as usize / d;
                for item in team.share(rows_in(x.rows) * heads) {
                    let (i, head) = (item / heads, item % heads);
                    // SAFETY: rows of checked buffers; this thread alone writes this head.
                    unsafe {
                        let rotated = Head {
                            x: self.row_of(*x, i).add(head * d),
                            table: self.row_of(*table, i),
                            norm: std::ptr::null(),
                            eps: 0.0,
                            head_dim: d,
                            out: self.row_of(*out, i).add(head * d),
                        };
                        rope::rotate(self.isa, &rotated);
                    }
                }
            }
            CpuStep::KvWrite { k, v, cache } => {
                let cache = &self.caches[*cache as usize];
                let (kv_heads, d) = (cache.kv_heads, cache.head_dim);
                for item in team.share(rows_in(k.rows) * kv_heads) {
                    let (i, head) = (item / kv_heads, item % kv_heads);
                    let row = row_at(k.rows, i);
                    let at = cache.row_offset(row.slot as usize, head, row.pos as usize);
                    // SAFETY: as for `RopeKv`.
                    unsafe {
                        let (k, v) = (
                            self.row_of(*k, i).add(head * d),
                            self.row_of(*v, i).add(head * d),
                        );
                        rope::store_head(self.isa, k, d, cache.is_f16, cache.keys.add(at));
                        rope::store_head(self.isa, v, d, cache.is_f16, cache.values.add(at));
                    }
                }
            }
            CpuStep::Attention {
                q,
                cache,
                heads,
                scale,
                softcap,
                out,
            } => {
                let step = AttentionStep {
                    loaded: self,
                    q: *q,
                    out: *out,
                    cache: *cache as usize,
                    group: *heads as usize / self.caches[*cache as usize].kv_heads,
                    scale: *scale,
                    softcap: *softcap,
                    rows: rows_in(q.rows),
                };
                return step.run(team, |i| row_at(q.rows, i));
            }
            CpuStep::SelectRows { x, out } => {
                for o in team.share(rows_in(out.rows)) {
                    let from = self.row_of(*x, call.outs[o] as usize);
                    // SAFETY: rows of two disjoint checked buffers of equal columns.
                    unsafe {
                        let to = self.row_of(*out, o);
                        std::ptr::copy_nonoverlapping(from, to, out.cols as usize);
                    }
                }
            }
            CpuStep::RmsNorm {
                x,
                weight,
                eps,
                offset,
                out,
            } => {
                let weight = &self.weights[*weight as usize];
                let run = weight.cols;
                let runs = x.cols as usize / run;
                for item in team.share(rows_in(x.rows) * runs) {
                    let (i, at) = (item / runs, item % runs * run);
                    // SAFETY: a run of rows of checked buffers.
                    unsafe {
                        let from = self.row_of(*x, i).add(at);
                        let to = self.row_of(*out, i).add(at);
                        rms_norm(self.isa, from, weight.values(), *offset, run, *eps, to);
                    }
                }
            }
            CpuStep::Columns { x, start, out } => {
                for i in team.share(rows_in(out.rows)) {
                    // SAFETY: the check proved the columns to lie in a row of `x`, and the buffers to be disjoint.
                    unsafe {
                        let from = self.row_of(*x, i).add(*start as usize);
                        let to = self.row_of(*out, i);
                        std::ptr::copy_nonoverlapping(from, to, out.cols as usize);
                    }
                }
            }
            CpuStep::Gelu { x, out } => self.each(Each::Gelu, *x, *x, *out, rows_in(x.rows), team),
            CpuStep::Mul { a, b, out } => self.each(Each::Mul, *a, *b, *out, rows_in(a.rows), team),
            CpuStep::Add { a, b, out } => self.each(Each::Add, *a, *b, *out, rows_in(a.rows), team),
            CpuStep::Softcap { x, cap, out } => {
                let op = Each::Softcap(*cap);
                self.each(op, *x, *x, *out, rows_in(x.rows), team);
            }
        }
        Ok(())
    }

    /// Element by element over whole buffers of equal shape.
    fn each(&self, op: Each, a: Buffer, b: Buffer, out: Buffer, rows: usize, team: &Team<'_>) {
        let elements = rows * out.cols as usize;
        let parts = team.share(elements.div_ceil(SPLIT_ELEMENTS));
        let (start, end) = (
            parts.start * SPLIT_ELEMENTS,
            (parts.end * SPLIT_ELEMENTS).min(elements),
        );
        if start >= end {
            return;
        }
        // SAFETY: checked buffers of `elements` elements; this thread alone writes its range.
        unsafe {
            let (a, b) = (self.row_of(a, 0).add(start), self.row_of(b, 0).add(start));
            each(
                self.isa,
                op,
                a,
                b,
                end - start,
                self.row_of(out, 0).add(start),
            );
        }
    }

    fn linear(&self, step: &LinearStep, rows: usize, team: &Team<'_>) -> Result<(), Broken> {
        if rows == 0 {
            return Ok(());
        }
        let weight = &self.weights[step.weight as usize];
        let cols = weight.cols;
        let prologue = Prologue {
            cols,
            post_norm: self.vector(step.post_norm),
            norm: self.vector(step.norm),
            eps: step.eps,
            format: weight.format,
        };
        let work = &self.workspace;
        // SAFETY: the driver was loaded for an available instruction set.
        let tiling = unsafe { tiling(self.isa, rows) };
        let row_bytes = prepared_row_bytes(weight.format, cols);
        let prepare = |row: usize, base: *mut u8, writes_sum: bool| {
            let (first, tile_rows) = tiling.tile_of(row);
            let residual = step.residual.as_ref();
            // SAFETY: `base` has room for the rows before this one's tile; the buffers' rows were checked, and the
            // private row holds the step's columns padded to 64.
            unsafe {
                let at = RowPlaces {
                    x: self.row_of(step.x, row),
                    residual: residual.map_or(std::ptr::null(), |r| self.row_of(r.from, row)),
                    sum: residual
                        .filter(|_| writes_sum)
                        .map_or(std::ptr::null_mut(), |r| self.row_of(r.to, row)),
                    row: work.row(team.thread),
                    tile: base.add(first * row_bytes),
                    tile_rows,
                    index: row - first,
                };
                prepare_row(self.isa, &prologue, &at);
            }
        };
        let activations = if rows == 1 {
            let own = work.at(team.thread, work.prepared);
            prepare(0, own, team.thread == 0);
            own
        } else {
            // SAFETY: the step's scratch lies in the arena.
            let shared = unsafe { self.context.arena.base().add(step.scratch.offset as usize) };
            for row in team.share(rows) {
                prepare(row, shared, true);
            }
            team.barrier()?;
            shared
        };
        let blocks = product_blocks(step.epilogue, weight.blocks(), team);
        let p = Product {
            weight,
            activations,
            rows,
            blocks,
            epilogue: step.epilogue,
            out: self.row_of(step.out, 0),
            out_cols: step.out.cols as usize,
            panel: work.at(team.thread, work.panel),
            sums: work.at(team.thread, work.sums).cast(),
        };
        // SAFETY: the check proved shapes and ranges; the columns of these blocks are this thread's; the working
        // memory is its own and was sized for the largest step.
        unsafe { product(self.isa, &p) };
        Ok(())
    }
}

/// The blocks of a weight that a thread multiplies: whole pairs where two blocks make one output.
fn product_blocks(epilogue: Epilogue, blocks: usize, team: &Team<'_>) -> Range<usize> {
    match epilogue {
        Epilogue::Geglu => {
            let pairs = team.share(blocks / 2);
            pairs.start * 2..pairs.end * 2
        }
        Epilogue::None | Epilogue::Softcap { .. } => team.share(blocks),
    }
}

/// An attention step of a call.
struct AttentionStep<'a> {
    loaded: &'a Loaded,
    q: Buffer,
    out: Buffer,
    cache: usize,
    group: usize,
    scale: f32,
    softcap: f32,
    rows: usize,
}

impl AttentionStep<'_> {
    fn run(&self, team: &Team<'_>, row_at: impl Fn(usize) -> Row) -> Result<(), Broken> {
        let kv_heads = self.loaded.caches[self.cache].kv_heads;
        let pairs = self.rows * kv_heads;
        if team.threads > 1 && pairs < SPREAD_PAIRS * team.threads {
            return self.run_spread(team, row_at);
        }
        // Tiles in turn: later rows of a prompt see more and take longer.
        let most = attention::tile_rows(self.group).min(MAX_TILE_ROWS);
        let (mut first, mut turn) = (0, 0);
        while first < self.rows {
            let slot = row_at(first).slot;
            let mut positions = [0; MAX_TILE_ROWS];
            let mut rows = 0;
            while rows < most && first + rows < self.rows {
                let row = row_at(first + rows);
                if row.slot != slot {
                    break;
                }
                positions[rows] = row.pos;
                rows += 1;
            }
            for kv_head in 0..kv_heads {
                if turn % team.threads == team.thread {
                    let tile = self.tile(first, &positions[..rows], slot, kv_head);
                    // SAFETY: checked buffers and cache; these rows and heads are this thread's, and so is the scratch.
                    unsafe {
                        let scratch = self.loaded.workspace.attention(team.thread);
                        let out = self.loaded.row_of(self.out, first);
                        attention::attend(self.loaded.isa, &tile, out, scratch);
                    }
                }
                turn += 1;
            }
            first += rows;
        }
        Ok(())
    }

    fn tile<'t>(
        &'t self,
        first: usize,
        positions: &'t [u32],
        slot: u32,
        kv_head: usize,
    ) -> Tile<'t> {
        Tile {
            cache: &self.loaded.caches[self.cache],
            q: self.loaded.row_of(self.q, first),
            cols: self.q.cols as usize,
            positions,
            slot: slot as usize,
            kv_head,
            group: self.group,
            scale: self.scale,
            softcap: self.softcap,
        }
    }

    /// Chunks that a row's position sees.
    fn chunks(&self, pos: u32) -> Range<usize> {
        let pos = pos as usize;
        let first = self.loaded.caches[self.cache].first_seen(pos);
        first / attention::CHUNK..pos / attention::CHUNK + 1
    }

    /// Few rows: chunks over the threads, then heads over the threads to merge them.
    fn run_spread(&self, team: &Team<'_>, row_at: impl Fn(usize) -> Row) -> Result<(), Broken> {
        let (loaded, group) = (self.loaded, self.group);
        let cache = &loaded.caches[self.cache];
        let kv_heads = cache.kv_heads;
        let len = attention::partial_len(cache.head_dim);
        let total: usize = (0..self.rows)
            .map(|i| self.chunks(row_at(i).pos).len() * kv_heads)
            .sum();
        assert!(total * group * len <= loaded.workspace.partials_len);
        let mine = team.share(total);
        let scratch = loaded.workspace.attention(team.thread);
        let mut item = 0;
        for i in 0..self.rows {
            let row = row_at(i);
            for kv_head in 0..kv_heads {
                for chunk in self.chunks(row.pos) {
                    if mine.contains(&item) {
                        let positions = [row.pos];
                        let tile = self.tile(i, &positions, row.slot, kv_head);
                        // SAFETY: as in `run`; each item has its own partial results.
                        unsafe {
                            let partials = loaded.workspace.partials().add(item * group * len);
                            attention::attend_chunk(loaded.isa, &tile, chunk, scratch, partials);
                        }
                    }
                    item += 1;
                }
            }
        }
        team.barrier()?;
        let heads = kv_heads * group;
        let mine = team.share(self.rows * heads);
        let mut start = 0;
        for i in 0..self.rows {
            let chunks = self.chunks(row_at(i).pos).len();
            for head in 0..heads {
                if mine.contains(&(i * heads + head)) {
                    let at = (start + head / group * chunks) * group + head % group;
                    // SAFETY: the partial results were written before the barrier; this head is this thread's.
                    unsafe {
                        let partials = loaded.workspace.partials().add(at * len);
                        let out = loaded.row_of(self.out, i).add(head * cache.head_dim);
                        attention::merge_chunks(
                            loaded.isa,
                            partials,
                            group * len,
                            chunks,
                            cache.head_dim,
                            scratch,
                            out,
                        );
                    }
                }
            }
            start += chunks * kv_heads;
        }
        Ok(())
    }
}

const _: () = assert!(BLOCK_ROWS as usize == super::simd::LANES);

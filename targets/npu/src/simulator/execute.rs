//! The interpreter: runs a core until it waits, ends or fails.

use super::lanes;
use super::memory::Memory;
use super::program::{Access, Instr, LANES, Product, ProductKind, Program};
use super::state::{ANYONE, NOBODY, Stop, Store, TICKS, Wrong};
use super::words::{bitcast, element_bytes, pack, widen};

/// Memory as a register holds it.
#[derive(Clone, Copy, Debug)]
struct Viewed {
    memory: u32,
    /// End of a FIFO through which it was acquired.
    holder: u32,
    offset: i64,
}

/// A core while it runs.
#[derive(Clone, Debug)]
pub struct CoreState {
    /// What it runs.
    pub program: Program,
    words: Vec<i32>,
    wides: Vec<i64>,
    views: Vec<Viewed>,
    /// Next instruction.
    pub at: usize,
    /// Its own time.
    pub ticks: u64,
    /// Of that, what it computed.
    pub busy: u64,
    /// Counts since the start.
    pub counts: super::program::Account,
    /// Instructions executed.
    pub executed: u64,
    /// Why it last stopped.
    pub stop: Option<Stop>,
    /// First lock that is not of a FIFO.
    lock_base: usize,
}

/// Cycles that taking or giving a lock costs.
const LOCK_CYCLES: u64 = 10;

impl CoreState {
    /// A core at the start of its program; `memory_of` gives the memories of fixed views.
    pub fn new(
        program: Program,
        memory_of: impl Fn(super::program::Memory, usize) -> u32,
        lock_base: usize,
    ) -> CoreState {
        let mut views = vec![
            Viewed {
                memory: 0,
                holder: ANYONE,
                offset: 0
            };
            program.views
        ];
        for (at, (view, memory)) in program.fixed.iter().enumerate() {
            views[*view as usize].memory = memory_of(*memory, at);
        }
        CoreState {
            words: vec![0; program.words],
            wides: vec![0; program.wides],
            views,
            program,
            at: 0,
            ticks: 0,
            busy: 0,
            counts: super::program::Account::default(),
            executed: 0,
            stop: None,
            lock_base,
        }
    }

    /// Runs until it waits; at most `limit` instructions.
    pub fn run(&mut self, store: &mut Store, limit: u64) -> Result<Stop, Wrong> {
        let mut left = limit;
        let result = loop {
            if left == 0 {
                break Ok(Stop::Tired);
            }
            left -= 1;
            match self.step(store) {
                Ok(None) => {}
                Ok(Some(stop)) => break Ok(stop),
                Err(wrong) => break Err(wrong),
            }
        };
        self.executed += limit - left;
        if let Ok(stop) = &result {
            self.stop = Some(stop.clone());
        }
        result
    }

    #[inline(always)]
    fn step(&mut self, store: &mut Store) -> Result<Option<Stop>, Wrong> {
        let CoreState {
            program,
            words,
            wides,
            views,
            ..
        } = self;
        let padded = |n: u32| (n as usize).div_ceil(LANES) * LANES;
        let mut next = self.at + 1;
        match &program.code[self.at] {
            Instr::Jump(to) => next = *to as usize,
            Instr::ForTest {
                variable,
                end,
                exit,
            } => {
                if wides[*variable as usize] >= wides[*end as usize] {
                    next = *exit as usize;
                }
            }
            Instr::ForNext {
                variable,
                step,
                head,
            } => {
                let by = wides[*step as usize];
                if by <= 0 {
                    return Err(Wrong::NoStep);
                }
                let variable = &mut wides[*variable as usize];
                *variable = variable.saturating_add(by);
                next = *head as usize;
            }
            Instr::BranchUnless { condition, to } => {
                if words[*condition as usize] == 0 {
                    next = *to as usize;
                }
            }
            Instr::Account(account) => {
                self.ticks += account.ticks;
                self.busy += account.ticks;
                self.counts.matrix += account.matrix;
                self.counts.loaded += account.loaded;
                self.counts.stored += account.stored;
            }
            Instr::Exit => return Ok(Some(Stop::Exit)),
            Instr::Acquire { end, count, view } => {
                let state = &mut store.ends[*end as usize];
                let lacks = (*count as usize).saturating_sub(state.held);
                if lacks > 0 {
                    let Some(time) = store.locks[state.acquire].take(lacks) else {
                        return Ok(Some(Stop::Acquire { end: *end, lacks }));
                    };
                    self.ticks = self.ticks.max(time);
                    for at in state.held..state.held + lacks {
                        let memory = state.base + (state.first + at) % state.depth.max(1);
                        store.holders[memory] = *end;
                        if state.produces {
                            store.memories[memory].forget();
                        }
                    }
                    state.held += lacks;
                    state.loaded_before = self.counts.loaded;
                }
                self.ticks += LOCK_CYCLES * TICKS;
                self.busy += LOCK_CYCLES * TICKS;
                if *view != u32::MAX {
                    views[*view as usize] = Viewed {
                        memory: (state.base + state.first % state.depth.max(1)) as u32,
                        holder: *end,
                        offset: 0,
                    };
                }
            }
            Instr::Element { end, index, d } => {
                let state = &store.ends[*end as usize];
                if *index as usize >= state.held {
                    return Err(Wrong::BeyondHeld {
                        end: *end,
                        index: *index,
                        held: state.held,
                    });
                }
                let element = (state.first + *index as usize) % state.depth.max(1);
                views[*d as usize] = Viewed {
                    memory: (state.base + element) as u32,
                    holder: *end,
                    offset: 0,
                };
            }
            Instr::Release { end, count } => {
                let state = &mut store.ends[*end as usize];
                let released = *count as usize;
                if released > state.held {
                    return Err(Wrong::Released {
                        end: *end,
                        count: *count,
                        held: state.held,
                    });
                }
                self.ticks += LOCK_CYCLES * TICKS;
                self.busy += LOCK_CYCLES * TICKS;
                for _ in 0..released {
                    store.holders[state.base + state.first] = NOBODY;
                    state.first = (state.first + 1) % state.depth.max(1);
                }
                state.held -= released;
                store.locks[state.release].give(released, self.ticks);
            }
            Instr::UseLock {
                lock,
                acquire,
                exact,
                value,
            } => {
                let tokens = &mut store.locks[self.lock_base + *lock as usize];
                let count = (*value).max(0) as usize;
                if *acquire {
                    let enough = !*exact || tokens.0.len() == count;
                    let Some(time) = enough.then(|| tokens.take(count)).flatten() else {
                        return Ok(Some(Stop::Lock {
                            lock: *lock,
                            value: *value,
                        }));
                    };
                    self.ticks = self.ticks.max(time);
                } else {
                    tokens.give(count, self.ticks);
                }
                self.ticks += LOCK_CYCLES * TICKS;
                self.busy += LOCK_CYCLES * TICKS;
            }
            Instr::WideConst { d, value } => wides[*d as usize] = *value,
            Instr::WideCopy { d, a } => wides[*d as usize] = wides[*a as usize],
            Instr::WideBinary { op, d, a, b } => {
                wides[*d as usize] = lanes::wide(*op, wides[*a as usize], wides[*b as usize]);
            }
            Instr::WideCompare { compare, d, a, b } => {
                let holds = lanes::holds(*compare, wides[*a as usize], wides[*b as usize]);
                words[*d as usize] = -i32::from(holds);
            }
            Instr::WideSelect { d, condition, a, b } => {
                let from = if words[*condition as usize] != 0 {
                    a
                } else {
                    b
                };
                wides[*d as usize] = wides[*from as usize];
            }
            Instr::WideFromWord { d, a, mask } => {
                wides[*d as usize] = (i64::from(words[*a as usize]) as u64 & mask) as i64;
            }
            Instr::WordFromWide { d, a, shift } => {
                words[*d as usize] = lanes::narrow(wides[*a as usize] as i32, *shift);
            }
            Instr::WideToFloat { d, a, signed } => {
                let x = wides[*a as usize];
                let x = if *signed { x as f32 } else { x as u64 as f32 };
                words[*d as usize] = x.to_bits() as i32;
            }
            Instr::FloatToWide { d, a, signed } => {
                let x = f32::from_bits(words[*a as usize] as u32);
                wides[*d as usize] = if *signed { x as i64 } else { x as u64 as i64 };
            }
            Instr::WideLoad { d, access } => {
                let (memory, at) = locate(access, wides, views, store, 0, 8)?;
                let bytes = read(&store.memories[memory], at, 8)?;
                wides[*d as usize] = i64::from_le_bytes(bytes.try_into().unwrap_or([0; 8]));
            }
            Instr::WideStore { a, access } => {
                let (memory, at) = locate(access, wides, views, store, 0, 8)?;
                let value = wides[*a as usize].to_le_bytes();
                store.memories[memory].write(at, 8).copy_from_slice(&value);
            }
            Instr::ViewCopy { d, a } => views[*d as usize] = views[*a as usize],
            Instr::ViewMove {
                d,
                a,
                offset_bytes,
                terms,
            } => {
                let mut view = views[*a as usize];
                view.offset += offset_bytes;
                for (register, bytes) in terms {
                    view.offset += wides[*register as usize] * bytes;
                }
                views[*d as usize] = view;
            }
            Instr::ViewFresh { view } => {
                store.memories[views[*view as usize].memory as usize].forget();
            }
            Instr::Load { d, access } => {
                let size = element_bytes(access.element);
                let count = access.row as usize;
                let d = *d as usize;
                for (row, start) in access.rows.iter().enumerate() {
                    let (memory, at) = locate(access, wides, views, store, *start, size * count)?;
                    let bytes = read(&store.memories[memory], at, size * count)?;
                    let into = d + row * count;
                    widen(&mut words[into..into + count], bytes, access.element);
                }
            }
            Instr::Store { a, access } => {
                let size = element_bytes(access.element);
                let count = access.row as usize;
                let a = *a as usize;
                for (row, start) in access.rows.iter().enumerate() {
                    let (memory, at) = locate(access, wides, views, store, *start, size * count)?;
                    let bytes = store.memories[memory].write(at, size * count);
                    let from = a + row * count;
                    pack(bytes, &words[from..from + count], access.element);
                }
            }
            Instr::Const { d, lanes } => {
                words[*d as usize..*d as usize + lanes.len()].copy_from_slice(lanes);
            }
            Instr::Copy { d, a, n } => {
                let (a, n) = (*a as usize, *n as usize);
                words.copy_within(a..a + n, *d as usize);
            }
            Instr::IntBinary {
                op,
                d,
                a,
                b,
                n,
                shift,
            } => {
                let ([a, b], d) = split(words, *d, [*a, *b], padded(*n));
                lanes::int_binary(*op, d, a, b, *shift);
            }
            Instr::IntCompare {
                compare,
                d,
                a,
                b,
                n,
            } => {
                let ([a, b], d) = split(words, *d, [*a, *b], padded(*n));
                lanes::int_compare(*compare, d, a, b);
            }
            Instr::FloatBinary { op, d, a, b, n } => {
                let ([a, b], d) = split(words, *d, [*a, *b], padded(*n));
                lanes::float_binary(*op, d, a, b);
            }
            Instr::FloatCompare {
                compare,
                d,
                a,
                b,
                n,
            } => {
                let ([a, b], d) = split(words, *d, [*a, *b], padded(*n));
                lanes::float_compare(*compare, d, a, b);
            }
            Instr::Math { function, d, a, n } => {
                let ([a], d) = split(words, *d, [*a], *n as usize);
                lanes::math(*function, d, a);
            }
            Instr::RoundBf16 { d, n } => {
                lanes::round_bf16(&mut words[*d as usize..*d as usize + padded(*n)]);
            }
            Instr::AbsInt { d, a, n, shift } => {
                let ([a], d) = split(words, *d, [*a], padded(*n));
                lanes::abs_int(d, a, *shift);
            }
            Instr::Select { d, c, a, b, n } => {
                let ([c, a, b], d) = split(words, *d, [*c, *a, *b], padded(*n));
                lanes::select(d, c, a, b);
            }
            Instr::SelectAll { d, c, a, b, n } => {
                let from = if words[*c as usize] != 0 { *a } else { *b };
                let ([from], d) = split(words, *d, [from], padded(*n));
                d.copy_from_slice(from);
            }
            Instr::ExtendUnsigned { d, a, n, shift } => {
                let ([a], d) = split(words, *d, [*a], padded(*n));
                lanes::extend_unsigned(d, a, *shift);
            }
            Instr::Truncate { d, a, n, shift } => {
                let ([a], d) = split(words, *d, [*a], padded(*n));
                lanes::truncate(d, a, *shift);
            }
            Instr::IntToFloat {
                d,
                a,
                n,
                signed,
                shift,
            } => {
                let ([a], d) = split(words, *d, [*a], padded(*n));
                lanes::int_to_float(d, a, *signed, *shift);
            }
            Instr::FloatToInt {
                d,
                a,
                n,
                signed,
                shift,
            } => {
                let ([a], d) = split(words, *d, [*a], padded(*n));
                lanes::float_to_int(d, a, *signed, *shift);
            }
            Instr::Bitcast {
                d,
                a,
                from,
                to,
                from_lanes,
                to_lanes,
            } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let a = &front[*a as usize..][..*from_lanes as usize];
                bitcast(&mut d[..*to_lanes as usize], a, *from, *to);
            }
            Instr::Fma { d, a, b, c, n } => {
                let ([a, b, c], d) = split(words, *d, [*a, *b, *c], padded(*n));
                lanes::fma(d, a, b, c);
            }
            Instr::Fill { d, a, n, count } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let a = &front[*a as usize..][..*n as usize];
                if let [one] = a {
                    d[..padded(*count)].fill(*one);
                } else {
                    for chunk in d[..*count as usize].chunks_exact_mut(a.len()) {
                        chunk.copy_from_slice(a);
                    }
                }
            }
            Instr::Gather { d, a, from } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let a = &front[*a as usize..];
                for (d, from) in d.iter_mut().zip(from) {
                    *d = a[*from as usize];
                }
            }
            Instr::Gather2 { d, a, b, n, from } => {
                let (front, d) = words.split_at_mut(*d as usize);
                for (d, from) in d.iter_mut().zip(from) {
                    *d = if from < n {
                        front[(*a + from) as usize]
                    } else {
                        front[(*b + from - n) as usize]
                    };
                }
            }
            Instr::Collect { d, from } => {
                let (front, d) = words.split_at_mut(*d as usize);
                for (d, from) in d.iter_mut().zip(from) {
                    *d = front[*from as usize];
                }
            }
            Instr::Replace {
                d,
                a,
                n,
                b,
                rows,
                row,
            } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let n = *n as usize;
                d[..n].copy_from_slice(&front[*a as usize..][..n]);
                let row = *row as usize;
                for (at, start) in rows.iter().enumerate() {
                    d[*start as usize..][..row]
                        .copy_from_slice(&front[*b as usize + at * row..][..row]);
                }
            }
            Instr::ExtractAt {
                d,
                a,
                base,
                terms,
                n,
            } => {
                let at = *a as usize + position(*base, terms, wides)?;
                words.copy_within(at..at + *n as usize, *d as usize);
            }
            Instr::InsertAt {
                d,
                a,
                n,
                b,
                base,
                terms,
                count,
            } => {
                let at = position(*base, terms, wides)?;
                let (front, d) = words.split_at_mut(*d as usize);
                let (n, count) = (*n as usize, *count as usize);
                d[..n].copy_from_slice(&front[*a as usize..][..n]);
                d[at..at + count].copy_from_slice(&front[*b as usize..][..count]);
            }
            Instr::Product {
                d,
                a,
                b,
                c,
                product,
            } => {
                matrix_product(words, *d, [*a, *b, *c], product);
            }
            Instr::Contract {
                d,
                a,
                b,
                c,
                n,
                steps,
                kind,
                arithmetic,
            } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let (a, b) = (&front[*a as usize..], &front[*b as usize..]);
                d[..*n as usize].copy_from_slice(&front[*c as usize..][..*n as usize]);
                for (sum, left, right) in steps {
                    let (left, right) = (a[*left as usize], b[*right as usize]);
                    let sum = &mut d[*sum as usize];
                    *sum = match arithmetic {
                        ProductKind::Small => {
                            lanes::combine(*kind, *sum, left.wrapping_mul(right), 0)
                        }
                        ProductKind::Int(shift) => {
                            let product = lanes::narrow(left.wrapping_mul(right), *shift);
                            lanes::combine(*kind, *sum, product, *shift)
                        }
                        ProductKind::Float | ProductKind::Bf16 => {
                            let product =
                                f32::from_bits(left as u32) * f32::from_bits(right as u32);
                            let next = lanes::combine_float(*kind, *sum, product.to_bits() as i32);
                            match arithmetic {
                                ProductKind::Bf16 => lanes::to_bf16(next),
                                _ => next,
                            }
                        }
                    };
                }
            }
            Instr::Reduce {
                d,
                a,
                c,
                n,
                into,
                kind,
                float,
                shift,
            } => {
                let (front, d) = words.split_at_mut(*d as usize);
                let d = &mut d[..*n as usize];
                let a = &front[*a as usize..];
                let mut seen = [false; 1024];
                let begun = match c {
                    Some(c) => {
                        d.copy_from_slice(&front[*c as usize..][..*n as usize]);
                        true
                    }
                    None => false,
                };
                for (a, into) in a.iter().zip(into) {
                    let into = *into as usize;
                    let first = !begun && !seen.get(into).copied().unwrap_or(true);
                    if let Some(seen) = seen.get_mut(into) {
                        *seen = true;
                    }
                    d[into] = if first {
                        *a
                    } else if *float {
                        lanes::combine_float(*kind, d[into], *a)
                    } else {
                        lanes::combine(*kind, d[into], *a, *shift)
                    };
                }
            }
        }
        self.at = next;
        Ok(None)
    }
}

/// Operands and the result behind them.
#[inline(always)]
fn split<const N: usize>(
    words: &mut [i32],
    d: u32,
    operands: [u32; N],
    n: usize,
) -> ([&[i32]; N], &mut [i32]) {
    let (front, back) = words.split_at_mut(d as usize);
    let front: &[i32] = front;
    (
        operands.map(|at| &front[at as usize..at as usize + n]),
        &mut back[..n],
    )
}

fn matrix_product(words: &mut [i32], d: u32, [a, b, c]: [u32; 3], product: &Product) {
    let (m, k, n) = (product.m as usize, product.k as usize, product.n as usize);
    let (front, back) = words.split_at_mut(d as usize);
    let d = &mut back[..m * n];
    let a = &front[a as usize..][..m * k];
    let c = &front[c as usize..][..m * n];
    let given = &front[b as usize..][..k * n];
    let mut turned = [0; lanes::MATRIX_LANES];
    let b = if product.transposed {
        for column in 0..n {
            for depth in 0..k {
                turned[depth * n + column] = given[column * k + depth];
            }
        }
        &turned[..k * n]
    } else {
        given
    };
    match product.kind {
        ProductKind::Small => lanes::product_small(d, a, b, c, (m, k, n)),
        ProductKind::Int(shift) => lanes::product_int(d, a, b, c, (m, k, n), shift),
        ProductKind::Float => lanes::product_float(d, a, b, c, (m, k, n), false),
        ProductKind::Bf16 => lanes::product_float(d, a, b, c, (m, k, n), true),
    }
}

fn position(base: u32, terms: &[(u32, u32, u32)], wides: &[i64]) -> Result<usize, Wrong> {
    let mut at = base as usize;
    for (register, stride, size) in terms {
        let index = wides[*register as usize];
        if index < 0 || index >= i64::from(*size) {
            return Err(Wrong::OutOfVector { index, size: *size });
        }
        at += index as usize * *stride as usize;
    }
    Ok(at)
}

/// The memory and the first byte of an access, which lies inside and is held.
#[inline(always)]
fn locate(
    access: &Access,
    wides: &[i64],
    views: &[Viewed],
    store: &Store,
    row: i64,
    bytes: usize,
) -> Result<(usize, usize), Wrong> {
    let view = &views[access.view as usize];
    let memory = view.memory as usize;
    if store.holders[memory] != view.holder {
        return Err(Wrong::NotHeld { end: view.holder });
    }
    let mut element = row;
    for (dimension, index) in access.indices.iter().enumerate() {
        let value = wides[index.register as usize];
        if value < 0 || value > index.last {
            return Err(Wrong::OutOfBounds {
                dimension,
                index: value,
                last: index.last,
            });
        }
        element += value * index.stride;
    }
    let at = view.offset + element * element_bytes(access.element) as i64;
    let size = store.memories[memory].len();
    if at < 0 || at as usize + bytes > size {
        return Err(Wrong::OutOfMemory { at, bytes: size });
    }
    Ok((memory, at as usize))
}

#[inline(always)]
fn read(memory: &Memory, at: usize, bytes: usize) -> Result<&[u8], Wrong> {
    match memory.first_unwritten(at, bytes) {
        Some(at) => Err(Wrong::Unwritten { at }),
        None => Ok(memory.read(at, bytes)),
    }
}

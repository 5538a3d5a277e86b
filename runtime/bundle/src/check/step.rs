//! What each step demands of its operands: shapes, row sets, weights, caches and numbers.

use super::CheckError;
use super::program::StepChecker;
use crate::cpu::{CpuStep, Epilogue, LinearStep, activation_bytes};
use crate::layout::BLOCK_ROWS;
use crate::manifest::{Buffer, Cache, RowSet, WeightEntry, WeightKind};

impl<'a> StepChecker<'a> {
    pub(super) fn cpu_step(&mut self, step: &CpuStep) -> Result<(), CheckError> {
        match *step {
            CpuStep::Embed { table, scale, out } => {
                self.finite("scale", scale)?;
                let table = self.matrix("table", table)?;
                let vocab = self.manifest.limits.vocab;
                if table.rows != vocab {
                    return self.fault(format_args!(
                        "table {:?} has {} rows, the vocabulary {vocab}",
                        table.name, table.rows
                    ));
                }
                self.cols("out", out, table.cols.into())?;
                self.writes("out", out)
            }
            CpuStep::RopeTable { theta, factor, out } => {
                self.positive("theta", theta)?;
                self.positive("factor", factor)?;
                self.even_head(out.cols)?;
                self.writes("out", out)
            }
            CpuStep::Linear(ref linear) => self.linear(linear),
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
                self.norm_eps(eps, q_norm.is_some() || k_norm.is_some())?;
                let c = self.cache(cache)?;
                self.even_head(c.head_dim)?;
                self.shared_heads(q_heads, c)?;
                let head_dim = u64::from(c.head_dim);
                let q_cols = u64::from(q_heads) * head_dim;
                // Equal to a buffer's columns, so below 2^32; the cache's are bounded by the arena: no sum overflows.
                self.cols("out", out, q_cols)?;
                let kv_cols = u64::from(c.kv_heads) * head_dim;
                self.cols("qkv", qkv, q_cols + 2 * kv_cols)?;
                self.cols("table", table, head_dim)?;
                for (name, weight) in [("q_norm", q_norm), ("k_norm", k_norm)] {
                    self.norm(name, weight, c.head_dim)?;
                }
                self.every_row("qkv", qkv)?;
                self.same_rows("table", table, "qkv", qkv)?;
                self.same_rows("out", out, "qkv", qkv)?;
                self.reads("qkv", qkv)?;
                self.reads("table", table)?;
                self.stores(cache);
                self.writes("out", out)
            }
            CpuStep::Attention {
                q,
                cache,
                heads,
                scale,
                softcap,
                out,
            } => {
                self.finite("scale", scale)?;
                if !(softcap.is_finite() && softcap >= 0.0) {
                    return self.fault(format_args!("softcap is {softcap}, must be 0 or more"));
                }
                let c = self.cache(cache)?;
                self.shared_heads(heads, c)?;
                self.cols("q", q, u64::from(heads) * u64::from(c.head_dim))?;
                self.same_shape("out", out, "q", q)?;
                if !self.is_stored(cache) {
                    return self.fault(format_args!(
                        "reads cache {:?}, into which no earlier step stores",
                        c.name
                    ));
                }
                self.reads("q", q)?;
                self.writes("out", out)
            }
            CpuStep::SelectRows { x, out } => {
                if (x.rows, out.rows) != (RowSet::Seq, RowSet::Out) {
                    return self
                        .fault("selects from every row to the rows asked for, nothing else");
                }
                self.cols("out", out, x.cols.into())?;
                self.reads("x", x)?;
                self.writes("out", out)
            }
            CpuStep::RmsNorm {
                x,
                weight,
                eps,
                offset,
                out,
            } => {
                self.positive("eps", eps)?;
                self.finite("offset", offset)?;
                let weight = self.vector("weight", weight)?;
                if !x.cols.is_multiple_of(weight.cols) {
                    return self.fault(format_args!(
                        "x has {} columns, no multiple of the {} of weight {:?}",
                        x.cols, weight.cols, weight.name
                    ));
                }
                self.same_shape("out", out, "x", x)?;
                self.reads("x", x)?;
                self.writes("out", out)
            }
            CpuStep::Rope { x, table, out } => {
                self.even_head(table.cols)?;
                if !x.cols.is_multiple_of(table.cols) {
                    return self.fault(format_args!(
                        "x has {} columns, no multiple of the table's {}",
                        x.cols, table.cols
                    ));
                }
                self.same_rows("table", table, "x", x)?;
                self.same_shape("out", out, "x", x)?;
                self.reads("x", x)?;
                self.reads("table", table)?;
                self.writes("out", out)
            }
            CpuStep::KvWrite { k, v, cache } => {
                let c = self.cache(cache)?;
                self.cols("k", k, u64::from(c.kv_heads) * u64::from(c.head_dim))?;
                self.same_shape("v", v, "k", k)?;
                self.every_row("k", k)?;
                self.reads("k", k)?;
                self.reads("v", v)?;
                self.stores(cache);
                Ok(())
            }
            CpuStep::Columns { x, start, out } => {
                let end = u64::from(start) + u64::from(out.cols);
                if end > u64::from(x.cols) {
                    return self.fault(format_args!(
                        "columns {start}..{end} of x, which has {}",
                        x.cols
                    ));
                }
                self.same_rows("out", out, "x", x)?;
                self.reads("x", x)?;
                self.writes("out", out)
            }
            CpuStep::Gelu { x, out } => self.unary(x, out),
            CpuStep::Softcap { x, cap, out } => {
                self.positive("cap", cap)?;
                self.unary(x, out)
            }
            CpuStep::Mul { a, b, out } | CpuStep::Add { a, b, out } => {
                self.same_shape("b", b, "a", a)?;
                self.same_shape("out", out, "a", a)?;
                self.reads_in_place("a", a)?;
                self.reads("b", b)?;
                self.writes("out", out)
            }
        }
    }

    fn unary(&mut self, x: Buffer, out: Buffer) -> Result<(), CheckError> {
        self.same_shape("out", out, "x", x)?;
        self.reads_in_place("x", x)?;
        self.writes("out", out)
    }

    fn linear(&mut self, step: &LinearStep) -> Result<(), CheckError> {
        let x = step.x;
        self.norm_eps(step.eps, step.post_norm.is_some() || step.norm.is_some())?;
        self.norm("post_norm", step.post_norm, x.cols)?;
        self.norm("norm", step.norm, x.cols)?;
        let weight = self.matrix("weight", step.weight)?;
        self.cols("x", x, weight.cols.into())?;
        match step.epilogue {
            Epilogue::None => self.cols("out", step.out, weight.rows.into())?,
            Epilogue::Softcap { cap } => {
                self.positive("cap", cap)?;
                self.cols("out", step.out, weight.rows.into())?;
            }
            Epilogue::Geglu => {
                let pairs = u64::from(step.out.cols.div_ceil(BLOCK_ROWS));
                let rows = 2 * u64::from(BLOCK_ROWS) * pairs;
                if u64::from(weight.rows) != rows {
                    return self.fault(format_args!(
                        "geglu of {} columns needs {rows} rows, weight {:?} has {}",
                        step.out.cols, weight.name, weight.rows
                    ));
                }
            }
        }
        self.same_rows("out", step.out, "x", x)?;
        self.reads("x", x)?;
        if let Some(residual) = step.residual {
            self.same_shape("residual.from", residual.from, "x", x)?;
            self.same_shape("residual.to", residual.to, "x", x)?;
            self.reads("residual.from", residual.from)?;
            self.writes("residual.to", residual.to)?;
        }
        self.writes("out", step.out)?;
        self.scratch(
            step.scratch,
            activation_bytes(self.max_rows(x.rows), x.cols),
        )
    }

    pub(super) fn matrix_or_vector(
        &self,
        what: &str,
        index: u32,
    ) -> Result<&'a WeightEntry, CheckError> {
        let weights = &self.manifest.weights;
        match weights.get(index as usize) {
            Some(weight) => Ok(weight),
            None => self.fault(format_args!(
                "{what} is weight {index} of a table of {}",
                weights.len()
            )),
        }
    }

    fn matrix(&self, what: &str, index: u32) -> Result<&'a WeightEntry, CheckError> {
        let weight = self.matrix_or_vector(what, index)?;
        match weight.kind {
            WeightKind::Matrix => Ok(weight),
            WeightKind::Vector => self.fault(format_args!(
                "{what} {:?} is a vector, must be a matrix",
                weight.name
            )),
        }
    }

    fn vector(&self, what: &str, index: u32) -> Result<&'a WeightEntry, CheckError> {
        let weight = self.matrix_or_vector(what, index)?;
        match weight.kind {
            WeightKind::Vector => Ok(weight),
            WeightKind::Matrix => self.fault(format_args!(
                "{what} {:?} is a matrix, must be a vector",
                weight.name
            )),
        }
    }

    fn norm(&self, what: &str, index: Option<u32>, cols: u32) -> Result<(), CheckError> {
        let Some(index) = index else {
            return Ok(());
        };
        let weight = self.vector(what, index)?;
        if weight.cols != cols {
            return self.fault(format_args!(
                "{what} {:?} has {} values, {cols} are normed",
                weight.name, weight.cols
            ));
        }
        Ok(())
    }

    pub(super) fn cache(&self, index: u32) -> Result<&'a Cache, CheckError> {
        let caches = &self.manifest.arena.caches;
        match caches.get(index as usize) {
            Some(cache) => Ok(cache),
            None => self.fault(format_args!(
                "uses cache {index} of a table of {}",
                caches.len()
            )),
        }
    }

    fn cols(&self, name: &str, buffer: Buffer, want: u64) -> Result<(), CheckError> {
        if u64::from(buffer.cols) != want {
            return self.fault(format_args!(
                "{name} has {} columns, must have {want}",
                buffer.cols
            ));
        }
        Ok(())
    }

    fn same_rows(
        &self,
        name: &str,
        buffer: Buffer,
        other_name: &str,
        other: Buffer,
    ) -> Result<(), CheckError> {
        if buffer.rows != other.rows {
            return self.fault(format_args!(
                "{name} has a row for {}, {other_name} for {}",
                row_set_name(buffer.rows),
                row_set_name(other.rows)
            ));
        }
        Ok(())
    }

    fn same_shape(
        &self,
        name: &str,
        buffer: Buffer,
        other_name: &str,
        other: Buffer,
    ) -> Result<(), CheckError> {
        self.same_rows(name, buffer, other_name, other)?;
        self.cols(name, buffer, other.cols.into())
    }

    fn every_row(&self, name: &str, buffer: Buffer) -> Result<(), CheckError> {
        match buffer.rows {
            RowSet::Seq => Ok(()),
            RowSet::Out => self.fault(format_args!(
                "{name} has a row for {}: keys and values are stored for every row",
                row_set_name(RowSet::Out)
            )),
        }
    }

    fn even_head(&self, head_dim: u32) -> Result<(), CheckError> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return self.fault(format_args!(
                "head_dim is {head_dim}, must be even and positive"
            ));
        }
        Ok(())
    }

    fn shared_heads(&self, heads: u32, cache: &Cache) -> Result<(), CheckError> {
        if heads == 0 || !heads.is_multiple_of(cache.kv_heads) {
            return self.fault(format_args!(
                "{heads} query heads do not divide over the {} of cache {:?}",
                cache.kv_heads, cache.name
            ));
        }
        Ok(())
    }

    fn finite(&self, name: &str, value: f32) -> Result<(), CheckError> {
        if !value.is_finite() {
            return self.fault(format_args!("{name} is {value}, must be finite"));
        }
        Ok(())
    }

    fn positive(&self, name: &str, value: f32) -> Result<(), CheckError> {
        if !(value.is_finite() && value > 0.0) {
            return self.fault(format_args!("{name} is {value}, must be positive"));
        }
        Ok(())
    }

    /// The epsilon of optional norms: any finite number if there is none.
    fn norm_eps(&self, eps: f32, used: bool) -> Result<(), CheckError> {
        if used {
            self.positive("eps", eps)
        } else {
            self.finite("eps", eps)
        }
    }
}

fn row_set_name(set: RowSet) -> &'static str {
    match set {
        RowSet::Seq => "every row",
        RowSet::Out => "each row asked for",
    }
}

//! What an op sees when it is evaluated: its operands, the weights, the caches; and the tensors it computes.

use crate::entity::WeightId;
use crate::interp::WeightSource;
use crate::interp::cache::KvCache;
use crate::interp::math;
use crate::module::Module;
use rayon::prelude::*;

/// Values of a weight held at once by one thread while a linear streams over it: 1 MiB.
const SLAB_VALUES: usize = 1 << 18;

/// An f32 matrix, rows one after the other.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Tokens, usually.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
    /// `rows * cols` values.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A matrix of zeros.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn zeros(rows: usize, cols: usize) -> Result<Self, String> {
        let data = zeros(rows.checked_mul(cols))?;
        Ok(Self { rows, cols, data })
    }

    /// Row `r`.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data[r * self.cols..][..self.cols]
    }

    /// Row `r`, to be written.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        &mut self.data[r * self.cols..][..self.cols]
    }

    /// Some of the columns, which must be there.
    pub(crate) fn columns(&self, columns: std::ops::Range<usize>) -> Result<Self, String> {
        let mut out = Self::zeros(self.rows, columns.len())?;
        for r in 0..self.rows {
            out.row_mut(r)
                .copy_from_slice(&self.row(r)[columns.clone()]);
        }
        Ok(out)
    }
}

fn zeros(count: Option<usize>) -> Result<Vec<f32>, String> {
    let mut data = Vec::new();
    let count = count.filter(|count| data.try_reserve_exact(*count).is_ok());
    data.resize(count.ok_or("out of memory")?, 0.0);
    Ok(data)
}

/// A computed value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Datum {
    Matrix(Tensor),
    Index(Vec<i32>),
}

impl From<Tensor> for Datum {
    fn from(tensor: Tensor) -> Self {
        Datum::Matrix(tensor)
    }
}

/// Surroundings of one op while it is evaluated.
pub(crate) struct Frame<'a> {
    pub module: &'a Module,
    pub weights: &'a dyn WeightSource,
    pub caches: &'a mut [KvCache],
    pub operands: Vec<&'a Datum>,
    pub int8_activations: bool,
}

impl<'a> Frame<'a> {
    /// Operand `i`, a matrix.
    pub fn matrix(&self, i: usize) -> Result<&'a Tensor, String> {
        match self.operands.get(i) {
            Some(Datum::Matrix(tensor)) => Ok(tensor),
            Some(Datum::Index(_)) | None => Err(format!("operand {i} is not a matrix")),
        }
    }

    /// Operand `i`, an index vector.
    pub fn index(&self, i: usize) -> Result<&'a [i32], String> {
        match self.operands.get(i) {
            Some(Datum::Index(index)) => Ok(index),
            Some(Datum::Matrix(_)) | None => Err(format!("operand {i} is not an index vector")),
        }
    }

    /// All values of a vector.
    pub fn weight_vector(&self, id: WeightId) -> Result<Vec<f32>, String> {
        let (_, cols) = self.module.weight(id).rows_cols();
        let mut out = zeros(Some(cols as usize))?;
        self.weights.read_rows(id, 0, &mut out)?;
        Ok(out)
    }

    /// `x w^T`. Streams over the weight: each thread holds a slab of its rows, never the whole.
    pub fn linear(&self, x: &Tensor, id: WeightId) -> Result<Tensor, String> {
        let weight = self.module.weight(id);
        let rounded;
        let x = if self.int8_activations && weight.dtype.is_quantized() {
            rounded = math::rounded_to_int8(x)?;
            &rounded
        } else {
            x
        };
        let (n, k) = weight.rows_cols();
        let (n, k) = (n as usize, k as usize);
        let slab_rows = (SLAB_VALUES / k).clamp(1, n);
        let slabs: Vec<Vec<f32>> = (0..n.div_ceil(slab_rows))
            .into_par_iter()
            .map_init(Vec::new, |slab: &mut Vec<f32>, i| {
                let first = i * slab_rows;
                let rows = slab_rows.min(n - first);
                if slab.is_empty() {
                    *slab = zeros(slab_rows.checked_mul(k))?;
                }
                let slab = &mut slab[..rows * k];
                self.weights.read_rows(id, first, slab)?;
                let mut out = zeros(rows.checked_mul(x.rows))?;
                for (j, w) in slab.chunks_exact(k).enumerate() {
                    for r in 0..x.rows {
                        out[r * rows + j] = math::dot(x.row(r), w);
                    }
                }
                Ok(out)
            })
            .collect::<Result<_, String>>()?;
        let mut y = Tensor::zeros(x.rows, n)?;
        for (i, slab) in slabs.iter().enumerate() {
            let first = i * slab_rows;
            let rows = slab_rows.min(n - first);
            for (r, sums) in slab.chunks_exact(rows).enumerate() {
                y.row_mut(r)[first..first + rows].copy_from_slice(sums);
            }
        }
        Ok(y)
    }
}

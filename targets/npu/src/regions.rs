//! Which parts of a lowered program become designs, and the modules of a whole model.
//!
//! Reads the processor's plan of a manifest, as the GPU target does: there the weights are resolved, so every device
//! reads the same bytes. Every distinct matrix of the prefill program becomes one sequence of one configuration, so the
//! array is configured once for the model.

use crate::aie::DialectVersion;
use crate::array::Array;
use crate::cost::Prediction;
use crate::design::linear::weights::WeightForm;
use crate::design::linear::{Linear, LinearError, Shape, sequence_name};
use gembin_bundle::cpu::CpuStep;
use gembin_bundle::layout::Format;
use gembin_bundle::manifest::{Manifest, Phase, RowSet, Work};
use thiserror::Error;

/// Why a model has no designs.
#[derive(Debug, Error, PartialEq)]
pub enum RegionError {
    /// Its matrices are floats.
    #[error(
        "the NPU multiplies 8-bit integers and {weight} is {format}: compile with --quant q8 or q4"
    )]
    NotQuantized {
        /// A matrix.
        weight: String,
        /// Its format.
        format: &'static str,
    },
    /// There is nothing to make a design of.
    #[error("no program of the model computes matrix products of many tokens")]
    NoProducts,
    /// Products do not fit.
    #[error(transparent)]
    Linear(#[from] LinearError),
}

/// Matrices of one size in one form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Matrices {
    /// The first of them, for people.
    pub name: String,
    /// How they are stored.
    pub form: WeightForm,
    /// Rows: outputs.
    pub rows: u32,
    /// Columns: depth.
    pub cols: u32,
    /// How many there are.
    pub count: u32,
}

/// The matrices that a model multiplies many tokens with, in order of first use.
///
/// # Errors
/// When one is not quantized, or there is none.
pub fn matrices(manifest: &Manifest) -> Result<Vec<Matrices>, RegionError> {
    let mut found: Vec<Matrices> = Vec::new();
    let programs = manifest
        .plans
        .iter()
        .flat_map(|plan| &plan.programs)
        .filter(|program| program.phase == Phase::Prefill);
    for step in programs.flat_map(|program| &program.steps) {
        let Work::Cpu(CpuStep::Linear(linear)) = &step.work else {
            continue;
        };
        // What is computed for the wanted rows alone, the head, has few rows.
        if linear.out.rows == RowSet::Out {
            continue;
        }
        let weight = &manifest.weights[linear.weight as usize];
        let form = match weight.format {
            Format::Q8 => WeightForm::Groups8,
            Format::Q4 => WeightForm::Groups4,
            Format::F32 | Format::F16 | Format::Bf16 => {
                return Err(RegionError::NotQuantized {
                    weight: weight.name.clone(),
                    format: weight.format.name(),
                });
            }
        };
        let alike = found
            .iter_mut()
            .find(|known| (known.form, known.rows, known.cols) == (form, weight.rows, weight.cols));
        match alike {
            Some(known) => known.count += 1,
            None => found.push(Matrices {
                name: weight.name.clone(),
                form,
                rows: weight.rows,
                cols: weight.cols,
                count: 1,
            }),
        }
    }
    if found.is_empty() {
        return Err(RegionError::NoProducts);
    }
    Ok(found)
}

/// One array configuration of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct Configuration {
    /// The module's name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The design.
    pub design: Linear,
    /// What its sequences compute, and what is predicted.
    pub products: Vec<Predicted>,
}

/// One product's figures.
#[derive(Clone, PartialEq, Debug)]
pub struct Predicted {
    /// The first matrix of this size.
    pub matrix: String,
    /// How many matrices of this size there are.
    pub count: u32,
    /// The sequence.
    pub sequence: String,
    /// Its shape.
    pub shape: Shape,
    /// Its time and traffic.
    pub figures: Prediction,
}

/// The configurations of a model's products for each number of `tokens`: one for each form of weights, which is one
/// where all layers are quantized alike. Tiles are those that compute the largest number soonest.
///
/// # Errors
/// When there is nothing to make designs of, or MLIR refuses one.
pub fn configurations(
    array: &Array,
    version: DialectVersion,
    manifest: &Manifest,
    tokens: &[u32],
) -> Result<Vec<Configuration>, RegionError> {
    let matrices = matrices(manifest)?;
    let most_tokens = tokens.iter().copied().max().unwrap_or(1);
    let mut configurations = Vec::new();
    for form in [WeightForm::Rows8, WeightForm::Groups8, WeightForm::Groups4] {
        let of_form: Vec<&Matrices> = matrices.iter().filter(|known| known.form == form).collect();
        if of_form.is_empty() {
            continue;
        }
        let shape = |matrices: &Matrices, tokens| Shape {
            tokens,
            depth: matrices.cols,
            outputs: matrices.rows,
        };
        let weighed: Vec<(Shape, u32)> = of_form
            .iter()
            .map(|matrices| (shape(matrices, most_tokens), matrices.count))
            .collect();
        let design = Linear::search(array, form, &weighed)?;
        let products: Vec<Predicted> = tokens
            .iter()
            .flat_map(|&tokens| of_form.iter().map(move |matrices| (tokens, matrices)))
            .map(|(tokens, matrices)| {
                let shape = shape(matrices, tokens);
                Predicted {
                    matrix: matrices.name.clone(),
                    count: matrices.count,
                    sequence: sequence_name(shape),
                    shape,
                    figures: design.predict(array, shape),
                }
            })
            .collect();
        let shapes: Vec<Shape> = products.iter().map(|product| product.shape).collect();
        let name = format!("products_q{}", form.bits());
        configurations.push(Configuration {
            text: design.emit(array, version, &name, &shapes)?,
            name,
            design,
            products,
        });
    }
    Ok(configurations)
}

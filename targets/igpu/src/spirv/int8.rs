//! Cooperative matrices of int8 with sums of int32, which WGSL has not and naga cannot write.
//!
//! A template writes them as f16 with sums of f32. That it means int8, the name of a view says, `tile_as_i8`, and
//! `tile_as_i8x32` that a product is one of 32 columns by 32 rows. Then
//!
//! - every f16 of the module is an int8: it may have matrices and views of them, and no arithmetic of its own;
//! - products are of signed integers, and so are the sums that a product begins with: those of another one, or zero;
//! - where the sums of a product go anywhere but into another one, they are converted to f32.
//!
//! No adjustment of what is not named so. Views themselves, and zero matrices, are the business of the parent module.

use super::{fresh, global, id_at, instructions, result_of};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Capability, CooperativeMatrixOperands, CooperativeMatrixUse, Op, Word};
use std::collections::{HashMap, HashSet};

/// How the name of a view of int8 ends.
const VIEW: &str = "_as_i8";
/// As [`VIEW`], where a product goes over 32 columns although the matrices' sums have 16.
const LONG_VIEW: &str = "_as_i8x32";
const LONG: u32 = 32;

/// Types of matrices that the module has.
struct Matrices {
    factors: HashSet<Word>,
    f32_sums: Word,
}

/// Makes int8 of the module's f16, if a view says so.
pub(super) fn integers(module: &mut Module) -> Result<(), String> {
    let has_view = |end: &str| {
        module.debug_names.iter().any(
            |name| matches!(name.operands.get(1), Some(Operand::LiteralString(text)) if text.ends_with(end)),
        )
    };
    let is_long = has_view(LONG_VIEW);
    if !is_long && !has_view(VIEW) {
        return Ok(());
    }
    let f16 = narrow_floats(module)?;
    let matrices = matrices(module, f16)?;
    if is_long {
        lengthen(module, &matrices.factors);
    }
    multiply(module, &matrices)
}

/// Turns the type f16 into int8, and what the module declares of it.
fn narrow_floats(module: &mut Module) -> Result<Word, String> {
    let float = module.types_global_values.iter_mut().find(|ty| {
        ty.class.opcode == Op::TypeFloat && ty.operands.first() == Some(&Operand::LiteralBit32(16))
    });
    let float = float.ok_or("a view is of int8, and there are no f16 to make them of")?;
    let id = result_of(float);
    *float = Instruction::new(
        Op::TypeInt,
        None,
        Some(id),
        vec![Operand::LiteralBit32(8), Operand::LiteralBit32(1)],
    );
    let is_of_matrices = |op| {
        matches!(
            op,
            Op::TypeCooperativeMatrixKHR | Op::TypeArray | Op::TypePointer
        )
    };
    let types = module
        .types_global_values
        .iter()
        .filter(|ty| ty.operands.contains(&Operand::IdRef(id)) && !is_of_matrices(ty.class.opcode));
    let values = module
        .all_inst_iter()
        .filter(|value| value.result_type == Some(id));
    if let Some(other) = types.chain(values).next() {
        return Err(format!(
            "f16 stand for int8 in matrices alone, and there is an {:?} of them",
            other.class.opcode
        ));
    }
    let is_float16 = |capability: &Instruction| {
        matches!(
            capability.operands[0],
            Operand::Capability(
                Capability::Float16
                    | Capability::StorageBuffer16BitAccess
                    | Capability::UniformAndStorageBuffer16BitAccess
            )
        )
    };
    module.capabilities.retain(|known| !is_float16(known));
    module.extensions.retain(|extension| {
        extension.operands[0] != Operand::LiteralString("SPV_KHR_16bit_storage".into())
    });
    module.capabilities.push(Instruction::new(
        Op::Capability,
        None,
        None,
        vec![Operand::Capability(Capability::Int8)],
    ));
    Ok(id)
}

fn matrices(module: &Module, int8: Word) -> Result<Matrices, String> {
    let of = |is_int8: bool| {
        module
            .types_global_values
            .iter()
            .filter(|ty| ty.class.opcode == Op::TypeCooperativeMatrixKHR)
            .filter(move |ty| (id_at(ty, 0) == Some(int8)) == is_int8)
            .map(result_of)
    };
    let mut sums = of(false);
    match (sums.next(), sums.next()) {
        (Some(f32_sums), None) => Ok(Matrices {
            factors: of(true).collect(),
            f32_sums,
        }),
        _ => Err("products of int8 are for sums of one size".into()),
    }
}

/// The value of a constant of 32 bits.
fn constant(module: &Module, id: Option<Word>) -> Option<u32> {
    let is_it =
        |constant: &&Instruction| constant.class.opcode == Op::Constant && constant.result_id == id;
    match module.types_global_values.iter().find(is_it)?.operands[..] {
        [Operand::LiteralBit32(value)] => Some(value),
        _ => None,
    }
}

/// Gives factors the columns, or rows, of a long product.
fn lengthen(module: &mut Module, factors: &HashSet<Word>) {
    let first = module
        .types_global_values
        .iter()
        .position(|ty| factors.contains(&result_of(ty)));
    let Some(first) = first else {
        return;
    };
    // The type of the constants that a matrix is described with.
    let described = id_at(&module.types_global_values[first], 2);
    let word = module
        .types_global_values
        .iter()
        .find(|constant| constant.result_id == described)
        .and_then(|constant| constant.result_type);
    let long = fresh(module);
    for index in 0..module.types_global_values.len() {
        if !factors.contains(&result_of(&module.types_global_values[index])) {
            continue;
        }
        // Rows, columns and use are the operands 2, 3 and 4; the factor on the left is long in its columns.
        let matrix_use = constant(module, id_at(&module.types_global_values[index], 4));
        let is_left = matrix_use == Some(CooperativeMatrixUse::MatrixAKHR as u32);
        let operand = if is_left { 3 } else { 2 };
        module.types_global_values[index].operands[operand] = Operand::IdRef(long);
    }
    let constant = Instruction::new(
        Op::Constant,
        word,
        Some(long),
        vec![Operand::LiteralBit32(LONG)],
    );
    module.types_global_values.insert(first, constant);
}

/// Makes products of integers, whose sums are converted where they leave them.
fn multiply(module: &mut Module, matrices: &Matrices) -> Result<(), String> {
    let int32 = global(
        module,
        Op::TypeInt,
        None,
        vec![Operand::LiteralBit32(32), Operand::LiteralBit32(1)],
    );
    let f32_sums = module
        .types_global_values
        .iter()
        .find(|ty| result_of(ty) == matrices.f32_sums);
    let mut described = f32_sums.map_or(Vec::new(), |ty| ty.operands.clone());
    described[0] = Operand::IdRef(int32);
    let int32_sums = global(module, Op::TypeCooperativeMatrixKHR, None, described);
    let int32_zero = global(module, Op::ConstantNull, Some(int32_sums), Vec::new());

    let zeros: HashSet<Word> = module
        .types_global_values
        .iter()
        .filter(|value| value.class.opcode == Op::ConstantNull)
        .map(result_of)
        .collect();
    let is_product =
        |instruction: &Instruction| instruction.class.opcode == Op::CooperativeMatrixMulAddKHR;
    let products: HashSet<Word> = instructions(module)
        .filter(|instruction| is_product(instruction))
        .map(|instruction| result_of(instruction))
        .collect();
    let signed = CooperativeMatrixOperands::MATRIX_A_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_B_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_C_SIGNED_COMPONENTS_KHR
        | CooperativeMatrixOperands::MATRIX_RESULT_SIGNED_COMPONENTS_KHR;
    // Products whose sums go elsewhere, and the id of the converted ones.
    let mut leaving = HashMap::new();
    let mut bound = module.header.as_ref().map_or(0, |header| header.bound);
    for instruction in instructions(module) {
        if is_product(instruction) {
            let begins_with = id_at(instruction, 2).unwrap_or(0);
            if zeros.contains(&begins_with) {
                instruction.operands[2] = Operand::IdRef(int32_zero);
            } else if !products.contains(&begins_with) {
                return Err("a product of int8 begins with zero or with another's sums".into());
            }
            instruction.operands.truncate(3);
            instruction
                .operands
                .push(Operand::CooperativeMatrixOperands(signed));
            instruction.result_type = Some(int32_sums);
            continue;
        }
        for operand in &mut instruction.operands {
            if let Operand::IdRef(id) = operand
                && products.contains(id)
            {
                let converted = *leaving.entry(*id).or_insert_with(|| {
                    bound += 1;
                    bound - 1
                });
                *operand = Operand::IdRef(converted);
            }
        }
    }
    if let Some(header) = &mut module.header {
        header.bound = bound;
    }
    let blocks = module
        .functions
        .iter_mut()
        .flat_map(|function| &mut function.blocks);
    for block in blocks {
        let converted = |instruction: Instruction| {
            let sums = result_of(&instruction);
            let convert = leaving
                .get(&sums)
                .filter(|_| is_product(&instruction))
                .map(|&id| {
                    Instruction::new(
                        Op::ConvertSToF,
                        Some(matrices.f32_sums),
                        Some(id),
                        vec![Operand::IdRef(sums)],
                    )
                });
            std::iter::once(instruction).chain(convert)
        };
        block.instructions = std::mem::take(&mut block.instructions)
            .into_iter()
            .flat_map(converted)
            .collect();
    }
    Ok(())
}

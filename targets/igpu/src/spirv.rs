//! What naga cannot say in SPIR-V, said afterwards with rspirv; and the disassembly that snapshots show.
//!
//! - Views: WGSL has no two types for the same workgroup memory, and a cooperative matrix of f16 can be loaded only from
//!   memory of f16, which is then written two bytes at a time. A workgroup variable `tile_as_f16` is a view of the
//!   variable `tile`: it vanishes, and accesses go to the element of `tile` with the same index. SPIR-V lets a
//!   cooperative matrix be loaded from and stored to memory of any type.
//! - Bits: WGSL's way from a word to two halves is through f32. Where the halves are f16 again, it becomes a bit cast.
//! - Zero cooperative matrices: naga has constants and initializers for them, of which RADV 25.0 makes matrices whose
//!   first element alone is zero. They are made of one zero where the function begins, and stored.
//! - Products of cooperative matrices, element by element: WGSL has only sums and differences. In a function named
//!   `product_by_element`, a difference is a product.
//! - Barriers of a subgroup order its accesses to workgroup memory, which naga leaves out.
//! - Arrays of workgroup memory have no explicit layout.

use rspirv::binary::{Assemble, Disassemble};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Decoration, GlslStd450Op, MemorySemantics, Op, Scope, StorageClass, Word};
use std::collections::{HashMap, HashSet};

mod int8;

/// What stands between a variable's name and the type it is viewed as.
const VIEW: &str = "_as_";

/// The function that multiplies two cooperative matrices element by element.
const PRODUCT: &str = "product_by_element";

/// Whether a workgroup variable of this name is a view of another.
pub(crate) fn is_view(name: &str) -> bool {
    name.contains(VIEW)
}

/// Adjusts what naga wrote, names of variables included. The names are gone afterwards.
pub(crate) fn adjust(code: Vec<u32>) -> Result<Vec<u32>, String> {
    let mut module = rspirv::dr::load_words(&code).map_err(|error| error.to_string())?;
    let generator = module.header.as_ref().map(|header| header.generator);
    int8::integers(&mut module)?;
    resolve_views(&mut module)?;
    cast_halves(&mut module);
    construct_zero_matrices(&mut module);
    multiply_elements(&mut module);
    order_subgroups(&mut module);
    module.debug_names.clear();
    module.debug_string_source.clear();
    drop_unused(&mut module);
    drop_workgroup_layout(&mut module);
    if let (Some(header), Some(generator)) = (&mut module.header, generator) {
        header.generator = generator;
    }
    Ok(module.assemble())
}

/// The code as text.
///
/// # Errors
/// When it is not SPIR-V.
pub fn disassemble(code: &[u32]) -> Result<String, String> {
    let module = rspirv::dr::load_words(code).map_err(|error| error.to_string())?;
    Ok(module.disassemble())
}

fn result_of(instruction: &Instruction) -> Word {
    instruction.result_id.unwrap_or(0)
}

fn id_at(instruction: &Instruction, operand: usize) -> Option<Word> {
    match instruction.operands.get(operand) {
        Some(Operand::IdRef(id)) => Some(*id),
        _ => None,
    }
}

fn fresh(module: &mut Module) -> Word {
    let Some(header) = &mut module.header else {
        return 0;
    };
    header.bound += 1;
    header.bound - 1
}

fn instructions(module: &mut Module) -> impl Iterator<Item = &mut Instruction> {
    module
        .functions
        .iter_mut()
        .flat_map(|function| &mut function.blocks)
        .flat_map(|block| &mut block.instructions)
}

/// The id of a type or constant, added at the end if it is new.
fn global(module: &mut Module, op: Op, ty: Option<Word>, operands: Vec<Operand>) -> Word {
    let known = module.types_global_values.iter().find(|known| {
        known.class.opcode == op && known.result_type == ty && known.operands == operands
    });
    if let Some(known) = known {
        return result_of(known);
    }
    let id = fresh(module);
    module
        .types_global_values
        .push(Instruction::new(op, ty, Some(id), operands));
    id
}

fn resolve_views(module: &mut Module) -> Result<(), String> {
    let names: HashMap<String, Word> = module
        .debug_names
        .iter()
        .filter_map(|name| match (id_at(name, 0), name.operands.get(1)) {
            (Some(id), Some(Operand::LiteralString(text))) => Some((text.clone(), id)),
            _ => None,
        })
        .collect();
    let globals: HashMap<Word, Instruction> = module
        .types_global_values
        .iter()
        .map(|instruction| (result_of(instruction), instruction.clone()))
        .collect();
    // The array type of a workgroup variable: element and length.
    let array = |variable: Word| {
        let variable = globals.get(&variable)?;
        let is_workgroup =
            variable.operands.first() == Some(&Operand::StorageClass(StorageClass::Workgroup));
        let pointer = globals.get(&variable.result_type?)?;
        let array = globals.get(&id_at(pointer, 1)?)?;
        (is_workgroup && array.class.opcode == Op::TypeArray)
            .then(|| Some((id_at(array, 0)?, id_at(array, 1)?)))?
    };
    // From a view to what it views and the pointer to an element of that.
    let mut views = HashMap::new();
    for (name, &view) in &names {
        let Some((target, _)) = name.split_once(VIEW) else {
            continue;
        };
        let Some((_, view_length)) = array(view) else {
            continue;
        };
        let target = *names
            .get(target)
            .ok_or_else(|| format!("{name} is a view of no variable"))?;
        let (element, length) =
            array(target).ok_or_else(|| format!("{name} is a view of something else"))?;
        if length != view_length {
            return Err(format!("{name} has another length than what it views"));
        }
        let pointer = global(
            module,
            Op::TypePointer,
            None,
            vec![
                Operand::StorageClass(StorageClass::Workgroup),
                Operand::IdRef(element),
            ],
        );
        views.insert(view, (target, pointer));
    }
    if views.is_empty() {
        return Ok(());
    }
    let mut pointers = HashSet::new();
    for instruction in instructions(module) {
        let Some(base) = id_at(instruction, 0) else {
            continue;
        };
        let view = views.get(&base);
        match (instruction.class.opcode, view) {
            (Op::AccessChain, Some(&(target, pointer))) => {
                instruction.operands[0] = Operand::IdRef(target);
                instruction.result_type = Some(pointer);
                pointers.extend(instruction.result_id);
            }
            (Op::CooperativeMatrixLoadKHR | Op::CooperativeMatrixStoreKHR, None) => {}
            (_, view) if view.is_some() || pointers.contains(&base) => {
                return Err("a view is for loading and storing cooperative matrices only".into());
            }
            _ => {}
        }
    }
    let gone = |id: Word| views.contains_key(&id);
    module
        .types_global_values
        .retain(|instruction| !gone(result_of(instruction)));
    for entry in &mut module.entry_points {
        entry
            .operands
            .retain(|operand| !matches!(operand, Operand::IdRef(id) if gone(*id)));
    }
    module
        .annotations
        .retain(|annotation| !id_at(annotation, 0).is_some_and(gone));
    Ok(())
}

/// `f16(unpack(word))` and `pack(f32(halves))` become bit casts.
fn cast_halves(module: &mut Module) {
    let float16 = module.types_global_values.iter().find(|ty| {
        ty.class.opcode == Op::TypeFloat && ty.operands.first() == Some(&Operand::LiteralBit32(16))
    });
    let Some(float16) = float16.map(result_of) else {
        return;
    };
    let halves = module.types_global_values.iter().find(|ty| {
        ty.class.opcode == Op::TypeVector
            && ty.operands == [Operand::IdRef(float16), Operand::LiteralBit32(2)]
    });
    let Some(halves) = halves.map(result_of) else {
        return;
    };
    let is = |instruction: &Instruction, op: GlslStd450Op| {
        instruction.class.opcode == Op::ExtInst
            && instruction.operands.get(1) == Some(&Operand::LiteralExtInstInteger(op as u32))
    };
    let mut types = HashMap::new();
    let mut unpacked = HashMap::new();
    let mut widened = HashMap::new();
    for instruction in instructions(module) {
        let (Some(result), Some(ty)) = (instruction.result_id, instruction.result_type) else {
            continue;
        };
        types.insert(result, ty);
        if is(instruction, GlslStd450Op::UnpackHalf2x16) {
            unpacked.extend(id_at(instruction, 2).map(|word| (result, word)));
        } else if is(instruction, GlslStd450Op::PackHalf2x16) {
            let source = id_at(instruction, 2).and_then(|wide| widened.get(&wide));
            if let Some(&source) = source {
                cast(instruction, source);
            }
        } else if instruction.class.opcode == Op::FConvert {
            let Some(source) = id_at(instruction, 0) else {
                continue;
            };
            if ty == halves {
                if let Some(&word) = unpacked.get(&source) {
                    cast(instruction, word);
                }
            } else if types.get(&source) == Some(&halves) {
                widened.insert(result, source);
            }
        }
    }
    fn cast(instruction: &mut Instruction, source: Word) {
        *instruction = Instruction::new(
            Op::Bitcast,
            instruction.result_type,
            instruction.result_id,
            vec![Operand::IdRef(source)],
        );
    }
}

/// Null constants of cooperative matrices are constructed in the functions that name them; initializers become stores.
fn construct_zero_matrices(module: &mut Module) {
    let elements: HashMap<Word, Word> = module
        .types_global_values
        .iter()
        .filter(|ty| ty.class.opcode == Op::TypeCooperativeMatrixKHR)
        .filter_map(|ty| Some((result_of(ty), id_at(ty, 0)?)))
        .collect();
    let nulls: Vec<(Word, Word)> = module
        .types_global_values
        .iter()
        .filter(|constant| constant.class.opcode == Op::ConstantNull)
        .filter_map(|constant| Some((constant.result_id?, constant.result_type?)))
        .filter(|(_, ty)| elements.contains_key(ty))
        .collect();
    for (null, ty) in nulls {
        let zero = global(module, Op::ConstantNull, Some(elements[&ty]), Vec::new());
        for index in 0..module.functions.len() {
            let made = fresh(module);
            let mut is_used = false;
            let mut stores = Vec::new();
            let blocks = &mut module.functions[index].blocks;
            for instruction in blocks.iter_mut().flat_map(|block| &mut block.instructions) {
                for operand in &mut instruction.operands {
                    if *operand == Operand::IdRef(null) {
                        *operand = Operand::IdRef(made);
                        is_used = true;
                    }
                }
                if instruction.class.opcode == Op::Variable && id_at(instruction, 1) == Some(made) {
                    instruction.operands.truncate(1);
                    let to = Operand::IdRef(result_of(instruction));
                    let operands = vec![to, Operand::IdRef(made)];
                    stores.push(Instruction::new(Op::Store, None, None, operands));
                }
            }
            if let Some(first) = blocks.first_mut().filter(|_| is_used) {
                let body = first
                    .instructions
                    .iter()
                    .position(|instruction| instruction.class.opcode != Op::Variable)
                    .unwrap_or(0);
                let construct = Instruction::new(
                    Op::CompositeConstruct,
                    Some(ty),
                    Some(made),
                    vec![Operand::IdRef(zero)],
                );
                let begin = std::iter::once(construct).chain(stores);
                first.instructions.splice(body..body, begin);
            }
        }
    }
}

/// Turns the difference in the function [`PRODUCT`] into a product.
fn multiply_elements(module: &mut Module) {
    let product = module.debug_names.iter().find_map(|name| {
        let is_product = name.operands.get(1) == Some(&Operand::LiteralString(PRODUCT.to_owned()));
        id_at(name, 0).filter(|_| is_product)
    });
    let function = module.functions.iter_mut().find(|function| {
        product.is_some() && function.def.as_ref().and_then(|def| def.result_id) == product
    });
    for instruction in function
        .into_iter()
        .flat_map(|function| &mut function.blocks)
        .flat_map(|block| &mut block.instructions)
    {
        if instruction.class.opcode == Op::FSub {
            *instruction = Instruction::new(
                Op::FMul,
                instruction.result_type,
                instruction.result_id,
                instruction.operands.clone(),
            );
        }
    }
}

/// Gives barriers of a subgroup workgroup memory as what they order.
fn order_subgroups(module: &mut Module) {
    let constants: HashMap<Word, u32> = module
        .types_global_values
        .iter()
        .filter_map(|constant| match constant.operands.first() {
            Some(Operand::LiteralBit32(value)) if constant.class.opcode == Op::Constant => {
                Some((result_of(constant), *value))
            }
            _ => None,
        })
        .collect();
    let is_subgroup = |instruction: &Instruction| {
        instruction.class.opcode == Op::ControlBarrier
            && instruction.operands.first().is_some_and(|scope| {
                matches!(scope, Operand::IdScope(id) if constants.get(id) == Some(&(Scope::Subgroup as u32)))
            })
    };
    if !instructions(module).any(|instruction| is_subgroup(instruction)) {
        return;
    }
    let word = global(
        module,
        Op::TypeInt,
        None,
        vec![Operand::LiteralBit32(32), Operand::LiteralBit32(0)],
    );
    let semantics = MemorySemantics::ACQUIRE_RELEASE | MemorySemantics::WORKGROUP_MEMORY;
    let semantics = global(
        module,
        Op::Constant,
        Some(word),
        vec![Operand::LiteralBit32(semantics.bits())],
    );
    for instruction in instructions(module) {
        if is_subgroup(instruction) {
            instruction.operands[2] = Operand::IdMemorySemantics(semantics);
        }
    }
}

/// Removes types and constants that nothing names.
fn drop_unused(module: &mut Module) {
    loop {
        let used: HashSet<Word> = module
            .types_global_values
            .iter()
            .chain(&module.entry_points)
            .chain(&module.execution_modes)
            .chain(module.functions.iter().flat_map(|function| {
                let blocks = function
                    .blocks
                    .iter()
                    .flat_map(|block| block.label.iter().chain(&block.instructions));
                function
                    .def
                    .iter()
                    .chain(&function.parameters)
                    .chain(blocks)
            }))
            .flat_map(|instruction| {
                let operands = instruction.operands.iter().filter_map(Operand::id_ref_any);
                operands.chain(instruction.result_type)
            })
            .collect();
        let before = module.types_global_values.len();
        module.types_global_values.retain(|instruction| {
            let droppable = matches!(
                instruction.class.opcode,
                Op::TypePointer | Op::TypeArray | Op::Constant | Op::ConstantNull
            );
            !droppable || used.contains(&result_of(instruction))
        });
        if module.types_global_values.len() == before {
            break;
        }
    }
    let defined: HashSet<Word> = module.types_global_values.iter().map(result_of).collect();
    module.annotations.retain(|annotation| {
        let is_stride =
            annotation.operands.get(1) == Some(&Operand::Decoration(Decoration::ArrayStride));
        !is_stride || id_at(annotation, 0).is_some_and(|id| defined.contains(&id))
    });
}

/// Takes the stride from array types that only workgroup variables have.
fn drop_workgroup_layout(module: &mut Module) {
    let globals = &module.types_global_values;
    let arrays: HashSet<Word> = globals
        .iter()
        .filter(|pointer| {
            pointer.class.opcode == Op::TypePointer
                && pointer.operands[0] == Operand::StorageClass(StorageClass::Workgroup)
        })
        .filter_map(|pointer| id_at(pointer, 1))
        .collect();
    let elsewhere: HashSet<Word> = globals
        .iter()
        .filter(|ty| match ty.class.opcode {
            Op::TypePointer => ty.operands[0] != Operand::StorageClass(StorageClass::Workgroup),
            Op::TypeStruct => true,
            _ => false,
        })
        .flat_map(|ty| ty.operands.iter().filter_map(Operand::id_ref_any))
        .collect();
    module.annotations.retain(|annotation| {
        let is_stride =
            annotation.operands.get(1) == Some(&Operand::Decoration(Decoration::ArrayStride));
        let of_workgroup =
            id_at(annotation, 0).is_some_and(|id| arrays.contains(&id) && !elsewhere.contains(&id));
        !(is_stride && of_workgroup)
    });
}

#[cfg(test)]
mod tests;

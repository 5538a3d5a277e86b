//! The definition of the AIE dialects' ops, and the verification of a module against it.
//!
//! `dialects/aie.irdl.mlir` defines each op and type that the target emits or reads, in MLIR's own language for that.
//! MLIR registers it in a context of its own, where the module is parsed a second time. Two things need dressing first:
//! IRDL takes no dots in names and knows no terminators, and attributes of a dialect without a parser do not parse.

use crate::mlir::{context, context_for_definitions};
use crate::module::Diagnostics;
use melior::ir::Module;
use melior::ir::RegionLike;
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationLike, OperationPrintingFlags};
use melior::ir::{BlockRef, Location, RegionRef};

const DEFINITION: &str = include_str!("../dialects/aie.irdl.mlir");

/// Op that ends regions in the dressed module; of no dialect that exists.
const END: &str = "frame.end";

/// Verifies a module, or says what is wrong.
pub fn verify(module: &Module) -> Result<(), String> {
    let dressed = dress(module)?;
    let context = context_for_definitions();
    let diagnostics = Diagnostics::attach(&context);
    let Some(definition) = Module::parse(&context, DEFINITION) else {
        return Err(format!("its own text: {}", diagnostics.text()));
    };
    if !melior::utility::load_irdl_dialects(&definition) {
        return Err(format!("its own text: {}", diagnostics.text()));
    }
    match Module::parse(&context, &dressed) {
        Some(parsed) if parsed.as_operation().verify() => Ok(()),
        Some(_) | None => Err(undress(&diagnostics.text())),
    }
}

/// Text of a module as the definition's context takes it.
fn dress(module: &Module) -> Result<String, String> {
    let plain = print(module)?;
    // A second copy, because sequences get an end that the module itself must not have.
    let context = context();
    let copy = Module::parse(&context, &plain).ok_or("its text does not parse again")?;
    end_blocks(copy.body(), &context);
    let text = print(&copy)?;
    let mut dressed = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("#aie<") {
        let (before, attribute) = rest.split_at(start);
        dressed.push_str(before);
        let mut depth = 0;
        let end = attribute
            .char_indices()
            .find_map(|(at, c)| {
                match c {
                    '<' => depth += 1,
                    '>' => depth -= 1,
                    _ => return None,
                }
                (depth == 0).then_some(at + 1)
            })
            .ok_or("an attribute does not end")?;
        let (attribute, after) = attribute.split_at(end);
        dressed.push('"');
        dressed.push_str(attribute);
        dressed.push('"');
        rest = after;
    }
    dressed.push_str(rest);
    // IRDL makes no tables of symbols, and functions stand in nothing else: a device with some keeps its own verifier.
    if dressed.contains("\"func.func\"(") {
        dressed = dressed.replace("\"aie.device\"(", "\"frame.device\"(");
    }
    for (from, to) in NAMES {
        dressed = dressed.replace(&format!("\"{from}\"("), &format!("\"{to}\"("));
    }
    Ok(dressed)
}

/// Names with dots, and names that an op shares with a type.
const NAMES: [(&str, &str); 10] = [
    ("aie.objectfifo", "aie.objectfifo_create"),
    ("aie.objectfifo.link", "aie.objectfifo_link"),
    ("aie.objectfifo.acquire", "aie.objectfifo_acquire"),
    ("aie.objectfifo.release", "aie.objectfifo_release"),
    (
        "aie.objectfifo.subview.access",
        "aie.objectfifo_subview_access",
    ),
    ("aiex.runtime_sequence", "aie.runtime_sequence"),
    ("aiex.npu.dma_memcpy_nd", "aiex.npu_dma_memcpy_nd"),
    ("aiex.npu.dma_wait", "aiex.npu_dma_wait"),
    ("aiex.npu.rtp_write", "aiex.npu_rtp_write"),
    ("aie.end", END),
];

fn undress(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in NAMES {
        text = text.replace(&format!("'{to}'"), &format!("'{from}'"));
        text = text.replace(&format!("\"{to}\""), &format!("\"{from}\""));
    }
    text
}

fn print(module: &Module) -> Result<String, String> {
    module
        .as_operation()
        .to_string_with_flags(
            // With locations, so that what is wrong is named by its line in the text that was read.
            OperationPrintingFlags::new()
                .print_generic_operation_form()
                .enable_debug_info(true, false),
        )
        .map_err(|error| error.to_string())
}

/// Gives an end to blocks of run-time sequences.
fn end_blocks(block: BlockRef, context: &melior::Context) {
    let mut next = block.first_operation();
    while let Some(op) = next {
        let name = op.name();
        let name = name.as_string_ref().as_str().unwrap_or("");
        for region in op.regions() {
            let region: RegionRef = region;
            if let Some(inner) = region.first_block() {
                match name {
                    "aie.device" | "builtin.module" => end_blocks(inner, context),
                    "aie.runtime_sequence" | "aiex.runtime_sequence" => {
                        let location = Location::unknown(context);
                        if let Ok(end) = OperationBuilder::new(END, location).build() {
                            inner.append_operation(end);
                        }
                    }
                    _ => {}
                }
            }
        }
        next = op.next_in_block();
    }
}

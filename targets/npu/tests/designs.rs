//! Ways through the array that the fixtures do not take, in modules written here: neighbours that share memory, links
//! of other sizes, distribution, patterns on the way into a core, a core that keeps several elements, masks.
#![cfg(feature = "mlir")]

use gembin_target_npu::array::Array;
use gembin_target_npu::legality::check;
use gembin_target_npu::module::Module;
use gembin_target_npu::simulator::{HostBuffer, Report, Simulator};
use std::fmt::Write;

/// Text of a module under way.
#[derive(Default)]
struct Design {
    device: String,
    sequence: String,
    waits: String,
    arguments: Vec<String>,
    next_id: i64,
}

impl Design {
    fn tile(&mut self, name: &str, column: i64, row: i64) {
        writeln!(
            self.device,
            "%{name} = \"aie.tile\"() {{col = {column} : i32, row = {row} : i32}} : () -> index"
        )
        .unwrap();
    }

    /// A FIFO with patterns `to` and `from` its stream, the same for every consumer.
    fn fifo(&mut self, name: &str, ends: &[&str], depth: &str, ty: &str, to: &str, from: &str) {
        let operands: Vec<String> = ends.iter().map(|end| format!("%{end}")).collect();
        let types = vec!["index"; ends.len()].join(", ");
        let from = vec![format!("[{from}]"); ends.len() - 1].join(", ");
        writeln!(
            self.device,
            "\"aie.objectfifo\"({}) {{sym_name = \"{name}\", elemNumber = {depth}, elemType = !aie.objectfifo<memref<{ty}>>, dimensionsToStream = #aie<bd_dim_layout_array[{to}]>, dimensionsFromStreamPerConsumer = #aie<bd_dim_layout_array_array[{from}]>}} : ({types}) -> ()",
            operands.join(", ")
        )
        .unwrap();
    }

    fn link(&mut self, from: &str, to: &str, source: &str, destination: &str) {
        writeln!(
            self.device,
            "\"aie.objectfifo.link\"() {{fifoIns = [{from}], fifoOuts = [{to}], src_offsets = [{source}], dst_offsets = [{destination}]}} : () -> ()"
        )
        .unwrap();
    }

    /// A core that does `body` for ever.
    fn core(&mut self, tile: &str, body: &str) {
        writeln!(
            self.device,
            r#"%core_{tile} = "aie.core"(%{tile}) ({{
              %c0 = arith.constant 0 : index
              %c1 = arith.constant 1 : index
              %c16 = arith.constant 16 : index
              %c64 = arith.constant 64 : index
              %forever = arith.constant 4294967295 : index
              scf.for %turn = %c0 to %forever step %c1 {{
                {body}
              }}
              "aie.end"() : () -> ()
            }}) {{stack_size = 1024 : i32}} : (index) -> index"#
        )
        .unwrap();
    }

    /// The next argument, and the transfer of all of it.
    fn transfer(&mut self, fifo: &str, ty: &str, elements: i64, wait: bool) {
        let (argument, id) = (self.arguments.len(), self.next_id);
        self.next_id += 1;
        self.arguments.push(format!("%x{argument}: memref<{ty}>"));
        writeln!(
            self.sequence,
            "\"aiex.npu.dma_memcpy_nd\"(%x{argument}) {{id = {id} : i64, metadata = @{fifo}, operandSegmentSizes = array<i32: 1, 0, 0, 0>, static_offsets = array<i64: 0, 0, 0, 0>, static_sizes = array<i64: 1, 1, 1, {elements}>, static_strides = array<i64: 0, 0, 0, 1>}} : (memref<{ty}>) -> ()"
        )
        .unwrap();
        if wait {
            writeln!(
                self.waits,
                "\"aiex.npu.dma_wait\"() {{symbol = @{fifo}}} : () -> ()"
            )
            .unwrap();
        }
    }

    fn text(&self) -> String {
        format!(
            "module {{\n\"aie.device\"() ({{\n{}\"aie.runtime_sequence\"() ({{\n^bb0({}):\n{}{}}}) {{sym_name = \"sequence\"}} : () -> ()\n\"aie.end\"() : () -> ()\n}}) {{device = 4 : i32}} : () -> ()\n}}\n",
            self.device,
            self.arguments.join(", "),
            self.sequence,
            self.waits
        )
    }

    fn module(&self) -> Module {
        Module::read(&self.text()).unwrap_or_else(|error| panic!("{error}\n{}", self.text()))
    }

    /// Runs it, legal as it must be.
    fn run(&self, buffers: &mut [HostBuffer]) -> Report {
        let module = self.module();
        let faults: Vec<String> = check(&module, Array::npu1())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        let mut array = Simulator::new(&module, Array::npu1()).unwrap();
        array
            .run("sequence", buffers)
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

fn acquire(value: &str, fifo: &str, port: i64, ty: &str) -> String {
    format!(
        "%{value} = \"aie.objectfifo.acquire\"() {{objFifo_name = @{fifo}, port = {port} : i32, size = 1 : i32}} : () -> memref<{ty}>\n"
    )
}

fn release(fifo: &str, port: i64) -> String {
    format!(
        "\"aie.objectfifo.release\"() {{objFifo_name = @{fifo}, port = {port} : i32, size = 1 : i32}} : () -> ()\n"
    )
}

/// A core's turn: `%y = op(%x)` on lines of 64 i32 from one FIFO to another.
fn line_by_line(from: &str, to: &str, op: &str) -> String {
    format!(
        "{}{}scf.for %at = %c0 to %c64 step %c16 {{
           %x = vector.load %from[%at] : memref<64xi32>, vector<16xi32>
           {op}
           vector.store %y, %to[%at] : memref<64xi32>, vector<16xi32>
         }}\n{}{}",
        acquire("from", from, 1, "64xi32"),
        acquire("to", to, 0, "64xi32"),
        release(from, 1),
        release(to, 0)
    )
}

fn bytes(values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    values.into_iter().flat_map(i32::to_le_bytes).collect()
}

const DOUBLE: &str = "%y = arith.addi %x, %x : vector<16xi32>";
const ADD_TURN: &str = "%t = arith.index_cast %turn : index to i32\n %ts = vector.broadcast %t : i32 to vector<16xi32>\n %y = arith.addi %x, %ts : vector<16xi32>";

#[test]
fn neighbours_share_memory_without_a_dma() {
    let mut design = Design::default();
    design.tile("shim", 1, 0);
    design.tile("first", 1, 2);
    design.tile("second", 1, 3);
    design.tile("third", 2, 3);
    design.fifo("in", &["shim", "first"], "2 : i32", "64xi32", "", "");
    design.fifo("up", &["first", "second"], "2 : i32", "64xi32", "", "");
    design.fifo("across", &["second", "third"], "1 : i32", "64xi32", "", "");
    design.fifo("out", &["third", "shim"], "2 : i32", "64xi32", "", "");
    design.core("first", &line_by_line("in", "up", DOUBLE));
    design.core("second", &line_by_line("up", "across", ADD_TURN));
    design.core("third", &line_by_line("across", "out", DOUBLE));
    design.transfer("in", "8x64xi32", 512, false);
    design.transfer("out", "8x64xi32", 512, true);
    let mut buffers = [HostBuffer::input(bytes(0..512)), HostBuffer::output(2048)];
    let report = design.run(&mut buffers);
    assert_eq!(
        buffers[1].bytes(),
        bytes((0..512).map(|x| 2 * (2 * x + x / 64)))
    );
    // Only the way in and the way out are streams.
    assert_eq!(report.streams.len(), 2);
}

#[test]
fn a_memory_tile_holds_elements_of_several_and_a_core_untangles_them() {
    let mut design = Design::default();
    design.tile("shim", 0, 0);
    design.tile("memory", 0, 1);
    design.tile("core", 0, 4);
    // Four lines of 64 at once, sent column by column; the core's DMA turns each line round again.
    design.fifo("in", &["shim", "memory"], "2 : i32", "256xi32", "", "");
    design.fifo(
        "lines",
        &["memory", "core"],
        "2 : i32",
        "64xi32",
        "<size = 4, stride = 64>, <size = 8, stride = 1>, <size = 8, stride = 8>",
        "<size = 8, stride = 1>, <size = 8, stride = 8>",
    );
    design.link("@in", "@lines", "", "");
    design.fifo("out", &["core", "shim"], "2 : i32", "64xi32", "", "");
    design.core("core", &line_by_line("lines", "out", ADD_TURN));
    design.transfer("in", "1024xi32", 1024, false);
    design.transfer("out", "1024xi32", 1024, true);
    let mut buffers = [HostBuffer::input(bytes(0..1024)), HostBuffer::output(4096)];
    design.run(&mut buffers);
    assert_eq!(buffers[1].bytes(), bytes((0..1024).map(|x| x + x / 64)));
}

#[test]
fn a_memory_tile_distributes_to_cores_and_joins_what_they_make() {
    let mut design = Design::default();
    design.tile("shim", 0, 0);
    design.tile("memory", 0, 1);
    design.fifo("in", &["shim", "memory"], "2 : i32", "192xi32", "", "");
    design.fifo("out", &["memory", "shim"], "2 : i32", "192xi32", "", "");
    for core in 0..3 {
        let name = format!("core{core}");
        design.tile(&name, 0, 2 + core);
        let (part, made) = (format!("part{core}"), format!("made{core}"));
        design.fifo(&part, &["memory", &name], "2 : i32", "64xi32", "", "");
        design.fifo(&made, &[&name, "memory"], "2 : i32", "64xi32", "", "");
        let factor = format!(
            "%f = arith.constant dense<{}> : vector<16xi32>\n %y = arith.muli %x, %f : vector<16xi32>",
            core + 2
        );
        design.core(&name, &line_by_line(&part, &made, &factor));
    }
    design.link("@in", "@part0, @part1, @part2", "", "0, 64, 128");
    design.link("@made0, @made1, @made2", "@out", "0, 64, 128", "");
    design.transfer("in", "768xi32", 768, false);
    design.transfer("out", "768xi32", 768, true);
    let mut buffers = [HostBuffer::input(bytes(0..768)), HostBuffer::output(3072)];
    design.run(&mut buffers);
    let expected = (0..768).map(|x| x * (x % 192 / 64 + 2));
    assert_eq!(buffers[1].bytes(), bytes(expected));
}

#[test]
fn a_core_keeps_elements_while_it_slides_over_them() {
    // Sums of a line and the next one: two are held, one is given back.
    let ty = "!aie.objectfifosubview<memref<64xi32>>";
    let body = format!(
        "%held = \"aie.objectfifo.acquire\"() {{objFifo_name = @in, port = 1 : i32, size = 2 : i32}} : () -> {ty}
         %a = \"aie.objectfifo.subview.access\"(%held) {{index = 0 : i32}} : ({ty}) -> memref<64xi32>
         %b = \"aie.objectfifo.subview.access\"(%held) {{index = 1 : i32}} : ({ty}) -> memref<64xi32>
         {}scf.for %at = %c0 to %c64 step %c16 {{
           %x = vector.load %a[%at] : memref<64xi32>, vector<16xi32>
           %y = vector.load %b[%at] : memref<64xi32>, vector<16xi32>
           %z = arith.addi %x, %y : vector<16xi32>
           vector.store %z, %to[%at] : memref<64xi32>, vector<16xi32>
         }}
         {}\"aie.objectfifo.release\"() {{objFifo_name = @in, port = 1 : i32, size = 2 : i32}} : () -> ()",
        acquire("to", "out", 0, "64xi32"),
        release("out", 0)
    );
    let mut design = Design::default();
    design.tile("shim", 3, 0);
    design.tile("core", 0, 5);
    design.fifo(
        "in",
        &["shim", "core"],
        "[4 : i32, 4 : i32]",
        "64xi32",
        "",
        "",
    );
    design.fifo("out", &["core", "shim"], "2 : i32", "64xi32", "", "");
    design.core("core", &body);
    design.transfer("in", "640xi32", 640, false);
    design.transfer("out", "320xi32", 320, true);
    let mut buffers = [HostBuffer::input(bytes(0..640)), HostBuffer::output(1280)];
    design.run(&mut buffers);
    let expected = (0..320).map(|at| {
        let line = at / 64 * 2;
        2 * (line * 64 + at % 64) + 64
    });
    assert_eq!(buffers[1].bytes(), bytes(expected));
}

#[test]
fn masks_compare_positions() {
    let mask = "%steps = vector.step : vector<16xindex>
           %starts = vector.broadcast %at : index to vector<16xindex>
           %positions = arith.addi %steps, %starts : vector<16xindex>
           %words = arith.index_cast %positions : vector<16xindex> to vector<16xi32>
           %limit = arith.constant dense<21> : vector<16xi32>
           %seen = arith.cmpi sle, %words, %limit : vector<16xi32>
           %never = arith.constant dense<-1> : vector<16xi32>
           %y = arith.select %seen, %x, %never : vector<16xi1>, vector<16xi32>";
    let mut design = Design::default();
    design.tile("shim", 0, 0);
    design.tile("core", 0, 2);
    design.fifo("in", &["shim", "core"], "2 : i32", "64xi32", "", "");
    design.fifo("out", &["core", "shim"], "2 : i32", "64xi32", "", "");
    design.core("core", &line_by_line("in", "out", mask));
    design.transfer("in", "64xi32", 64, false);
    design.transfer("out", "64xi32", 64, true);
    let mut buffers = [HostBuffer::input(bytes(100..164)), HostBuffer::output(256)];
    design.run(&mut buffers);
    let expected = (0..64).map(|at| if at <= 21 { 100 + at } else { -1 });
    assert_eq!(buffers[1].bytes(), bytes(expected));
}

/// The same transfers as tasks, and parameters as operands: what later versions of the dialect write.
#[test]
fn tasks_move_what_transfers_move() {
    let text = include_str!("../../../testdata/targets/npu/parameter_one_core.mlir");
    let task = |argument: i64, fifo: &str, sizes: &str, token: &str| {
        format!(
            "%t{argument} = \"aiex.dma_configure_task_for\"() ({{\n\"aie.dma_bd\"({}) {{burst_length = 0 : i32, dimensions = #aie<bd_dim_layout_array[{sizes}]>, len = 64 : i32, offset = 64 : i32}} : (memref<5x64xi32>) -> ()\n\"aie.end\"() : () -> ()\n}}) {{alloc = @{fifo}, {token}repeat_count = 3 : i32}} : () -> index\n\"aiex.dma_start_task\"(%t{argument}) : (index) -> ()\n",
            ["%X", "%Y"][argument as usize]
        )
    };
    let lines = "<size = 4, stride = 64>, <size = 1, stride = 0>, <size = 1, stride = 0>, <size = 64, stride = 1>";
    let (start, end) = (
        text.find("    \"aiex.runtime_sequence\"").unwrap(),
        text.rfind("    \"aie.end\"").unwrap(),
    );
    let sequence = format!(
        "\"aie.runtime_sequence\"() ({{\n^bb0(%X: memref<5x64xi32>, %Y: memref<5x64xi32>):\n%c7 = arith.constant 7 : i32\n%c0 = arith.constant 0 : i32\n\"aiex.npu.rtp_write\"(%c7) {{buffer = @parameters, index = 0 : i32}} : (i32) -> ()\n\"aiex.npu.rtp_write\"(%c0) {{buffer = @parameters, index = 1 : i32}} : (i32) -> ()\n{}{}\"aiex.dma_await_task\"(%t1) : (index) -> ()\n\"aiex.dma_free_task\"(%t0) : (index) -> ()\n}}) {{sym_name = \"sequence\"}} : () -> ()\n",
        task(0, "in", lines, ""),
        task(1, "out", lines, "issue_token = true, "),
    );
    let text = format!("{}{sequence}{}", &text[..start], &text[end..]);
    let module = Module::read(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(check(&module, Array::npu1()), []);
    let mut array = Simulator::new(&module, Array::npu1()).unwrap();
    let mut buffers = [HostBuffer::input(bytes(0..320)), HostBuffer::output(1280)];
    array.run("sequence", &mut buffers).unwrap();
    assert_eq!(buffers[1].bytes()[256..], bytes((64..320).map(|x| 7 * x)));
    assert!(!buffers[1].is_whole());
}

/// Five results into one memory tile, whose switch takes four from the cores: the fifth goes round through the shims.
#[test]
fn streams_find_their_way_round_full_ports() {
    let mut design = Design::default();
    design.tile("shim", 0, 0);
    design.tile("memory", 0, 1);
    let mut made = Vec::new();
    for core in 0..5 {
        let (name, shim) = (format!("core{core}"), format!("shim{core}"));
        let column = core / 4 + 1;
        design.tile(&name, column, 2 + core % 4);
        if core % 2 == 0 {
            design.tile(&shim, 1 + core / 2, 0);
        }
        let (part, result) = (format!("in{core}"), format!("made{core}"));
        let from = format!("shim{}", core / 2 * 2);
        design.fifo(&part, &[&from, &name], "2 : i32", "64xi32", "", "");
        design.fifo(&result, &[&name, "memory"], "2 : i32", "64xi32", "", "");
        design.core(&name, &line_by_line(&part, &result, DOUBLE));
        made.push(format!("@{result}"));
    }
    design.fifo("out", &["memory", "shim"], "1 : i32", "320xi32", "", "");
    design.link(&made.join(", "), "@out", "0, 64, 128, 192, 256", "");
    for core in 0..5 {
        design.transfer(&format!("in{core}"), "64xi32", 64, false);
    }
    let module = design.module();
    assert_eq!(check(&module, Array::npu1()), []);
}

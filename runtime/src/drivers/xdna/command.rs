//! Commands: the packet that starts an instruction stream on a configured array, and the states it ends in.
//!
//! The packet is the one of the open compiler's kernels: a header, the set of configurations (here always the only
//! one), then the kernel's arguments as they lie in memory. There is room for five buffers; a sixth is told to the
//! firmware in another way.

use gembin_bundle::npu::MAX_ARGUMENTS;

/// Words of a packet.
pub(super) const PACKET_WORDS: usize = 7 + 2 * MAX_ARGUMENTS;
/// Bits of the header that hold the state.
const STATE: u32 = 0xf;
/// The state of a command that has not been looked at.
const NEW: u32 = 1;
/// Type of packets for configurations of the array, in the header's top bits.
const FOR_CONFIGURATION: u32 = 3 << 28;
/// The kernel's first argument: run an instruction stream.
const RUN_STREAM: u32 = 3;

/// How a command ended, or that it has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is on its way.
    Running,
    /// It is done.
    Completed,
    /// The firmware refused it, or the array failed.
    Error,
    /// It was given up, since one before it failed.
    Abort,
    /// It took too long for the kernel's driver, which has reset the array.
    Timeout,
    /// The firmware does not answer.
    NoResponse,
    /// None that is known.
    Unknown(u32),
}

impl State {
    /// The state in a packet's header.
    pub(super) fn of_header(header: u32) -> Self {
        match header & STATE {
            1..=3 | 7 => State::Running,
            4 => State::Completed,
            5 => State::Error,
            6 => State::Abort,
            8 => State::Timeout,
            9 => State::NoResponse,
            other => State::Unknown(other),
        }
    }

    /// The number in a packet's header.
    #[cfg(any(test, feature = "fake-npu"))]
    pub(super) fn number(self) -> u32 {
        match self {
            State::Running => 3,
            State::Completed => 4,
            State::Error => 5,
            State::Abort => 6,
            State::Timeout => 8,
            State::NoResponse => 9,
            State::Unknown(number) => number,
        }
    }

    /// What happened to a command that is not completed, and what to do.
    pub(super) fn explain(self) -> String {
        let words = match self {
            State::Completed => "it completed",
            State::Running => "its end was signalled, but it is still marked as running",
            State::Error => {
                "the NPU's firmware reports an error in the command; see `dmesg`, and run with --device cpu"
            }
            State::Abort => "the NPU gave the command up; start again, or run with --device cpu",
            State::Timeout => {
                "the NPU took too long and was reset; start again, or run with --device cpu"
            }
            State::NoResponse => {
                "the NPU's firmware does not answer; start the machine again, or run with --device cpu"
            }
            State::Unknown(number) => {
                return format!("the command ended in state {number}, which is unknown");
            }
        };
        words.to_owned()
    }
}

/// The packet that runs the stream of `words` words at `stream` over `buffers`, addresses all.
pub(super) fn packet(stream: u64, words: u32, buffers: &[u64]) -> [u32; PACKET_WORDS] {
    let halves = |address: u64| [address as u32, (address >> 32) as u32];
    let mut packet = [0; PACKET_WORDS];
    // The length counts what is behind the header. The operation, bits 23 to 27, is 0: start a configuration.
    packet[0] = NEW | ((PACKET_WORDS as u32 - 1) << 12) | FOR_CONFIGURATION;
    packet[1] = 1;
    packet[2..4].copy_from_slice(&halves(RUN_STREAM.into()));
    packet[4..6].copy_from_slice(&halves(stream));
    // In words, as the open compiler's own hosts give it; others give bytes.
    packet[6] = words;
    for (place, &address) in packet[7..].chunks_exact_mut(2).zip(buffers) {
        place.copy_from_slice(&halves(address));
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_laid_out_as_kernels_expect() {
        let packet = packet(0x0402_8000, 812, &[0x7b7d_41cd_f000, 0x7b7d_419b_f040]);
        assert_eq!(
            packet,
            [
                0x3001_0001,
                1,
                3,
                0,
                0x0402_8000,
                0,
                812,
                0x41cd_f000,
                0x7b7d,
                0x419b_f040,
                0x7b7d,
                0,
                0,
                0,
                0,
                0,
                0
            ]
        );
    }

    #[test]
    fn every_state_is_known_and_told() {
        for number in 0..16 {
            let state = State::of_header(0x3001_0000 | number);
            assert!(!state.explain().contains('\n'));
            if !matches!(state, State::Running) {
                assert_eq!(state.number(), number);
            }
        }
        assert_eq!(State::of_header(4), State::Completed);
    }
}

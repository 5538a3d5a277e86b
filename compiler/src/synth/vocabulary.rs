//! A made vocabulary: special tokens, runs of white space, bytes, words of several scripts, single characters.
//!
//! Every piece of several characters is the concatenation of two others, so that byte-pair merges reach it; all such
//! pairs become merges, in the order of their results, as in a vocabulary converted from SentencePiece. Common English
//! words come first, so that plain text takes about as many tokens as it would with a trained vocabulary of that size;
//! the rest are words of random syllables. Knows nothing of file formats.

use super::noise::mix;
use crate::import::Family;
use std::collections::HashMap;

/// Pieces by id, and merges by rank.
pub(super) struct Vocabulary {
    /// Spellings; the index is the id.
    pub pieces: Vec<String>,
    /// The first so many are special tokens.
    pub specials: usize,
    /// Pairs of ids, the one merged first in front.
    pub merges: Vec<(u32, u32)>,
}

/// What stands for a space.
pub(super) const SPACE: char = '\u{2581}';
const UNUSED: usize = 99;
const START_OF_TURN: &str = "<start_of_turn>";
pub(super) const END_OF_TURN: &str = "<end_of_turn>";
/// Longest run of white space that is one piece.
const LONGEST_RUN: usize = 31;
/// Characters of the longest word.
const LONGEST_WORD: usize = 16;

impl Vocabulary {
    /// Makes exactly `size` pieces.
    pub fn new(family: Family, size: usize, seed: u64) -> Self {
        let mut p = Pieces::default();
        let mut specials = vec!["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"];
        // The turn markers of Gemma 3 lie one below those of Gemma 1 and 2.
        specials.extend(match family {
            Family::Gemma1 | Family::Gemma2 => ["<2mass>", "[@BOS@]"].as_slice(),
            Family::Gemma3 => &["[multimodal]"],
        });
        for special in specials {
            p.add(special.to_owned());
        }
        for n in 0..UNUSED {
            p.add(format!("<unused{n}>"));
        }
        p.add(START_OF_TURN.to_owned());
        p.add(END_OF_TURN.to_owned());
        let specials = p.list.len();
        for (c, shortest) in [('\n', 1), (SPACE, 2), ('\t', 2)] {
            for n in shortest..=LONGEST_RUN {
                p.add(c.to_string().repeat(n));
            }
        }
        for byte in 0..=u8::MAX {
            p.add(format!("<0x{byte:02X}>"));
        }
        // Single characters go last, yet words are made of them.
        let characters: Vec<char> = characters().collect();
        let words_end = size.saturating_sub(characters.len());
        let mut draw = Draw(mix(seed ^ 0x746f_6b65_6e73));
        for word in COMMON.split_whitespace() {
            p.add_prefixes(&format!("{SPACE}{word}"), words_end);
            p.add_prefixes(word, words_end);
        }
        while p.list.len() < words_end {
            add_random_word(&mut p, &mut draw, words_end);
        }
        for c in characters {
            p.add(c.to_string());
        }
        let merges = p.merges(specials);
        Self {
            pieces: p.list,
            specials,
            merges,
        }
    }

    /// The id of a spelling.
    pub fn id(&self, piece: &str) -> Option<usize> {
        self.pieces.iter().position(|p| p == piece)
    }
}

/// Pieces so far.
#[derive(Default)]
struct Pieces {
    list: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Pieces {
    fn add(&mut self, piece: String) {
        let id = u32::try_from(self.list.len()).expect("vocabularies are small");
        if self.ids.try_insert_new(&piece, id) {
            self.list.push(piece);
        }
    }

    /// Adds a word and all its beginnings of two or more characters, until there are `end` pieces.
    fn add_prefixes(&mut self, word: &str, end: usize) {
        for (at, c) in word.char_indices().skip(1) {
            if self.list.len() < end {
                self.add(word[..at + c.len_utf8()].to_owned());
            }
        }
    }

    /// Every way to make a piece of two others, in the order of the results, then of the pairs.
    fn merges(&self, specials: usize) -> Vec<(u32, u32)> {
        let mut merges = Vec::new();
        for piece in &self.list[specials..] {
            if is_byte(piece) {
                continue;
            }
            let pairs = piece.char_indices().skip(1).filter_map(|(at, _)| {
                let (a, b) = piece.split_at(at);
                Some((*self.ids.get(a)?, *self.ids.get(b)?))
            });
            let first = merges.len();
            merges.extend(pairs);
            merges[first..].sort_unstable();
        }
        merges
    }
}

/// `<0x0A>`: never made by merging.
fn is_byte(piece: &str) -> bool {
    piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
}

trait InsertNew {
    /// Whether the key was new; an old one keeps its value.
    fn try_insert_new(&mut self, key: &str, value: u32) -> bool;
}

impl InsertNew for HashMap<String, u32> {
    fn try_insert_new(&mut self, key: &str, value: u32) -> bool {
        if self.contains_key(key) {
            return false;
        }
        self.insert(key.to_owned(), value);
        true
    }
}

/// A random sequence.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Evenly below `n`.
    fn below(&mut self, n: usize) -> usize {
        // The high half times n, so that the remainder of a division is not needed.
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// One of them, the earlier ones more often.
    fn early<T: Copy>(&mut self, of: &[T]) -> T {
        let n = self.below(of.len()).min(self.below(of.len()));
        of[n]
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// Beginnings, middles and ends of syllables.
struct Script {
    onsets: &'static [&'static str],
    nuclei: &'static [&'static str],
    codas: &'static [&'static str],
}

const LATIN: Script = Script {
    onsets: &[
        "t", "s", "r", "l", "n", "m", "d", "c", "p", "b", "th", "f", "h", "w", "g", "v", "st",
        "ch", "sh", "tr", "pr", "k", "y", "j", "", "pl", "gr", "cl", "br", "cr", "sp", "fr", "bl",
        "sc", "qu", "z", "wh", "dr", "sl", "sw",
    ],
    nuclei: &[
        "e", "a", "i", "o", "u", "ea", "ou", "ai", "io", "ee", "oo", "ie", "au", "é", "ö", "ü",
        "ä", "í", "ó", "á",
    ],
    codas: &[
        "", "n", "r", "s", "t", "l", "d", "m", "ng", "nt", "st", "ck", "nd", "ll", "rt", "ss", "p",
        "x", "lt", "rm",
    ],
};
const CYRILLIC: Script = Script {
    onsets: &[
        "н", "т", "с", "р", "в", "л", "к", "м", "д", "п", "г", "б", "з", "ч", "й", "ж", "ш", "ст",
        "пр", "",
    ],
    nuclei: &["о", "а", "е", "и", "у", "я", "ы", "ю"],
    codas: &["", "н", "т", "й", "л", "р", "м", "к", "ть", "сь"],
};
// Shares of the random pieces. Together they give a vocabulary of Gemma 3's size its 500,000 merges: a syllable that is
// a piece of its own, or a word without a space in front, gives longer pieces one more way to be merged; ideographs
// make words with few.

/// Words with a space in front.
const SPACED_PERCENT: usize = 80;
/// Words of ideographs.
const IDEOGRAPHS_PERCENT: usize = 40;
/// Other words in Cyrillic letters.
const CYRILLIC_PERCENT: usize = 15;
/// Words with a capital.
const CAPITAL_PERCENT: usize = 20;
/// Syllables that are pieces of their own.
const SYLLABLES_ALONE_PERCENT: usize = 10;
/// Part of Chinese characters that words are made of.
const IDEOGRAPHS: std::ops::Range<u32> = 0x4e00..0x6e00;

fn add_random_word(p: &mut Pieces, draw: &mut Draw, end: usize) {
    let mut word = String::new();
    if draw.percent(SPACED_PERCENT) {
        word.push(SPACE);
    }
    if draw.percent(IDEOGRAPHS_PERCENT) {
        for _ in 0..2 + draw.below(2) {
            let n = draw
                .below(IDEOGRAPHS.len())
                .min(draw.below(IDEOGRAPHS.len()));
            word.extend(char::from_u32(IDEOGRAPHS.start + n as u32));
        }
        return p.add_prefixes(&word, end);
    }
    let script = if draw.percent(CYRILLIC_PERCENT) {
        &CYRILLIC
    } else {
        &LATIN
    };
    for n in 0..1 + draw.below(4) {
        let mut syllable = String::new();
        syllable.push_str(draw.early(script.onsets));
        syllable.push_str(draw.early(script.nuclei));
        syllable.push_str(draw.early(script.codas));
        if n == 0 && draw.percent(CAPITAL_PERCENT) {
            syllable = capitalised(&syllable);
        } else if draw.percent(SYLLABLES_ALONE_PERCENT) {
            p.add_prefixes(&syllable, end);
        }
        word.push_str(&syllable);
    }
    if word.chars().count() <= LONGEST_WORD {
        p.add_prefixes(&word, end);
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars).collect()
}

/// Characters that are pieces by themselves.
fn characters() -> impl Iterator<Item = char> {
    let ranges = [
        (0x21, 0x7e),     // ASCII
        (0xa1, 0x24f),    // Latin with accents
        (0x370, 0x4ff),   // Greek, Cyrillic
        (0x531, 0x556),   // Armenian
        (0x5d0, 0x5ea),   // Hebrew
        (0x620, 0x64a),   // Arabic
        (0x904, 0x939),   // Devanagari
        (0xe01, 0xe3a),   // Thai
        (0x2010, 0x2027), // punctuation
        (0x20a0, 0x20bf), // currencies
        (0x2190, 0x21ff), // arrows
        (0x2500, 0x257f), // boxes
        (0x2600, 0x26ff), // symbols
        (0x3001, 0x3011), // CJK punctuation
        (0x3041, 0x3096), // Hiragana
        (0x30a1, 0x30fa), // Katakana
        (0x4e00, 0x8dff), // Chinese characters
        (0xac00, 0xb7ff), // Korean syllables
        (0x1f300, 0x1f64f),
        (0x1f680, 0x1f6ff),
        (0x1f900, 0x1f9ff), // emoji
    ];
    let rest = ranges.into_iter().flat_map(|(a, b)| a..=b);
    [SPACE, '\t']
        .into_iter()
        .chain(rest.filter_map(char::from_u32))
}

/// The most frequent words of English text.
const COMMON: &str = "the of and to in is that it was for on are as with his they be at one have this from or had by \
hot but some what there we can out other were all your when up use word how said an each she which do their time if \
will way about many then them would write like so these her long make thing see him two has look more day could go \
come did my sound no most number who over know water than call first people may down side been now find any new work \
part take get place made live where after back little only round man year came show every good me give our under name \
very through just form much great think say help low line before turn cause same mean differ move right boy old too \
does tell sentence set three want air well also play small end put home read hand port large spell add even land here \
must big high such follow act why ask men change went light kind off need house picture try us again animal point \
mother world near build self earth father head stand own page should country found answer school grow study still \
learn plant cover food sun four thought let keep eye never last door between city tree cross since hard start might \
story saw far sea draw left late run don't while press close night real life few stop open seem together next white \
children begin got walk example ease paper often always music those both mark book letter until mile river car feet \
care second enough plain girl usual young ready above ever red list though feel talk bird soon body dog family direct \
model user system token compiler memory processor language program function value return";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_has_its_size_and_every_piece_can_be_made() {
        for (family, size, start_of_turn) in [
            (Family::Gemma3, 262_144, 105),
            (Family::Gemma2, 256_000, 106),
        ] {
            let v = Vocabulary::new(family, size, 1);
            assert_eq!(v.pieces.len(), size);
            assert_eq!(v.id(START_OF_TURN), Some(start_of_turn));
            assert_eq!(v.id(END_OF_TURN), Some(start_of_turn + 1));
            let distinct: std::collections::HashSet<_> = v.pieces.iter().collect();
            assert_eq!(distinct.len(), size);
            let mut made = vec![false; size];
            let mut last = 0;
            let ids: HashMap<&str, usize> = v
                .pieces
                .iter()
                .enumerate()
                .map(|(n, p)| (p.as_str(), n))
                .collect();
            for (a, b) in &v.merges {
                let both = format!("{}{}", v.pieces[*a as usize], v.pieces[*b as usize]);
                let id = ids[both.as_str()];
                assert!(id >= last, "merges are in the order of their results");
                made[id] = true;
                last = id;
            }
            for (n, piece) in v.pieces.iter().enumerate().skip(v.specials) {
                assert!(
                    made[n] || is_byte(piece) || piece.chars().count() == 1,
                    "{piece:?}"
                );
            }
        }
    }

    #[test]
    fn it_has_about_as_many_merges_as_the_real_one() {
        let merges = Vocabulary::new(Family::Gemma3, 262_144, 1).merges.len();
        assert!((490_000..=510_000).contains(&merges), "{merges}");
    }
}

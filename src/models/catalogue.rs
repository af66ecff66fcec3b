//! The models that are fetched by name.
//!
//! Names, sizes and checksums are those of the files in whisper.cpp's model repository on Hugging Face
//! (`ggerganov/whisper.cpp`); the SHA-256 is the repository's own object id of each file. In December 2025
//! some of the English-only files were published again without one unused token (17 bytes less). Both
//! generations are valid and listed.

use super::error::ModelError;

/// Working memory of an inference in addition to the weights, by model family.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// MiB for caches and buffers: whisper.cpp's published memory figures less the file sizes.
    working_mib: u64,
}

const TINY: &Family = &Family { working_mib: 200 };
const BASE: &Family = &Family { working_mib: 250 };
const SMALL: &Family = &Family { working_mib: 390 };
const MEDIUM: &Family = &Family { working_mib: 640 };
const LARGE: &Family = &Family { working_mib: 1000 };
const TURBO: &Family = &Family { working_mib: 700 };

/// One file as it was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: &'static str,
}

/// A model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Canonical name, for example `base.en` or `large-v3-turbo-q5_0`.
    pub name: &'static str,
    /// The family whose working memory it has.
    pub(crate) family: &'static Family,
    /// The published generations of the file, newest first; never empty.
    pub published: &'static [Published],
}

const fn published(size_bytes: u64, sha256: &'static str) -> Published {
    Published { size_bytes, sha256 }
}

const fn entry(
    name: &'static str,
    family: &'static Family,
    published: &'static [Published],
) -> CatalogueEntry {
    CatalogueEntry {
        name,
        family,
        published,
    }
}

/// All models, smallest first.
#[rustfmt::skip]
pub const CATALOGUE: &[CatalogueEntry] = &[
    entry("tiny", TINY, &[published(77_691_713, "be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21")]),
    entry("tiny-q5_1", TINY, &[published(32_152_673, "818710568da3ca15689e31a743197b520007872ff9576237bda97bd1b469c3d7")]),
    entry("tiny-q8_0", TINY, &[published(43_537_433, "c2085835d3f50733e2ff6e4b41ae8a2b8d8110461e18821b09a15c40c42d1cca")]),
    entry("tiny.en", TINY, &[published(77_704_698, "8729634ed8e45db72893c34a6c671a2eef06f551eaf1056b8fa92ab45008b425"), published(77_704_715, "921e4cf8686fdd993dcd081a5da5b6c365bfde1162e72b08d75ac75289920b1f")]),
    entry("tiny.en-q5_1", TINY, &[published(32_166_155, "c77c5766f1cef09b6b7d47f21b546cbddd4157886b3b5d6d4f709e91e66c7c2b")]),
    entry("tiny.en-q8_0", TINY, &[published(43_550_795, "5bc2b3860aa151a4c6e7bb095e1fcce7cf12c7b020ca08dcec0c6d018bb7dd94")]),
    entry("base", BASE, &[published(147_951_465, "60ed5bc3dd14eea856493d334349b405782ddcaf0028d4b5df4088345fba2efe")]),
    entry("base-q5_1", BASE, &[published(59_707_625, "422f1ae452ade6f30a004d7e5c6a43195e4433bc370bf23fac9cc591f01a8898")]),
    entry("base-q8_0", BASE, &[published(81_768_585, "c577b9a86e7e048a0b7eada054f4dd79a56bbfa911fbdacf900ac5b567cbb7d9")]),
    entry("base.en", BASE, &[published(147_964_194, "e111a865d56afc4adf1379a2028544b3275dd25839c460953ed9a126632dcda2"), published(147_964_211, "a03779c86df3323075f5e796cb2ce5029f00ec8869eee3fdfb897afe36c6d002")]),
    entry("base.en-q5_1", BASE, &[published(59_721_011, "4baf70dd0d7c4247ba2b81fafd9c01005ac77c2f9ef064e00dcf195d0e2fdd2f")]),
    entry("base.en-q8_0", BASE, &[published(81_781_811, "a4d4a0768075e13cfd7e19df3ae2dbc4a68d37d36a7dad45e8410c9a34f8c87e")]),
    entry("small", SMALL, &[published(487_601_967, "1be3a9b2063867b937e64e2ec7483364a79917e157fa98c5d94b5c1fffea987b")]),
    entry("small-q5_1", SMALL, &[published(190_085_487, "ae85e4a935d7a567bd102fe55afc16bb595bdb618e11b2fc7591bc08120411bb")]),
    entry("small-q8_0", SMALL, &[published(264_464_607, "49c8fb02b65e6049d5fa6c04f81f53b867b5ec9540406812c643f177317f779f")]),
    entry("small.en", SMALL, &[published(487_614_184, "cef314a500e45ace34b8f58529b983ab545b57d8d3c39b359bcabe8cb6c5a795"), published(487_614_201, "c6138d6d58ecc8322097e0f987c32f1be8bb0a18532a3f88f734d1bbf9c41e5d")]),
    entry("small.en-q5_1", SMALL, &[published(190_098_681, "bfdff4894dcb76bbf647d56263ea2a96645423f1669176f4844a1bf8e478ad30")]),
    entry("small.en-q8_0", SMALL, &[published(264_477_561, "67a179f608ea6114bd3fdb9060e762b588a3fb3bd00c4387971be4d177958067")]),
    entry("medium", MEDIUM, &[published(1_533_763_059, "6c14d5adee5f86394037b4e4e8b59f1673b6cee10e3cf0b11bbdbee79c156208")]),
    entry("medium-q5_0", MEDIUM, &[published(539_212_467, "19fea4b380c3a618ec4723c3eef2eb785ffba0d0538cf43f8f235e7b3b34220f")]),
    entry("medium-q8_0", MEDIUM, &[published(823_369_779, "42a1ffcbe4167d224232443396968db4d02d4e8e87e213d3ee2e03095dea6502")]),
    entry("medium.en", MEDIUM, &[published(1_533_774_781, "cc37e93478338ec7700281a7ac30a10128929eb8f427dda2e865faa8f6da4356")]),
    entry("medium.en-q5_0", MEDIUM, &[published(539_225_533, "76733e26ad8fe1c7a5bf7531a9d41917b2adc0f20f2e4f5531688a8c6cd88eb0")]),
    entry("medium.en-q8_0", MEDIUM, &[published(823_382_461, "43fa2cd084de5a04399a896a9a7a786064e221365c01700cea4666005218f11c")]),
    entry("large-v1", LARGE, &[published(3_094_623_691, "7d99f41a10525d0206bddadd86760181fa920438b6b33237e3118ff6c83bb53d")]),
    entry("large-v2", LARGE, &[published(3_094_623_691, "9a423fe4d40c82774b6af34115b8b935f34152246eb19e80e376071d3f999487")]),
    entry("large-v2-q5_0", LARGE, &[published(1_080_732_091, "3a214837221e4530dbc1fe8d734f302af393eb30bd0ed046042ebf4baf70f6f2")]),
    entry("large-v2-q8_0", LARGE, &[published(1_656_129_691, "fef54e6d898246a65c8285bfa83bd1807e27fadf54d5d4e81754c47634737e8c")]),
    entry("large-v3", LARGE, &[published(3_095_033_483, "64d182b440b98d5203c4f9bd541544d84c605196c4f7b845dfa11fb23594d1e2")]),
    entry("large-v3-q5_0", LARGE, &[published(1_081_140_203, "d75795ecff3f83b5faa89d1900604ad8c780abd5739fae406de19f23ecd98ad1")]),
    entry("large-v3-turbo", TURBO, &[published(1_624_555_275, "1fc70f774d38eb169993ac391eea357ef47c88757ef72ee5943879b7e8e2bc69")]),
    entry("large-v3-turbo-q5_0", TURBO, &[published(574_041_195, "394221709cd5ad1f40c46e6031ca61bce88931e6e088c188294c6d5a55ffa7e2")]),
    entry("large-v3-turbo-q8_0", TURBO, &[published(874_188_075, "317eb69c11673c9de1e1f0d459b253999804ec71ac4c23c17ecf5fbe24e259a1")]),
];

/// Other names in use, and the models that they stand for.
pub const ALIASES: &[(&str, &str)] = &[
    ("large", "large-v3"),
    ("turbo", "large-v3-turbo"),
    ("large-q5_0", "large-v3-q5_0"),
    ("turbo-q5_0", "large-v3-turbo-q5_0"),
    ("turbo-q8_0", "large-v3-turbo-q8_0"),
];

impl CatalogueEntry {
    /// Size in bytes of the file that a pull fetches.
    pub fn size_bytes(&self) -> u64 {
        self.published.first().map_or(0, |file| file.size_bytes)
    }

    /// Memory that one worker needs, in bytes: weights plus working memory, an estimate.
    pub fn memory_bytes(&self) -> u64 {
        self.size_bytes() + self.family.working_mib * 1024 * 1024
    }

    /// Whether the model supports languages other than English.
    pub fn multilingual(&self) -> bool {
        !self.name.contains(".en")
    }

    /// Number of languages, for tables: large-v3 and turbo added Cantonese to the first 99.
    pub fn languages(&self) -> &'static str {
        match (self.multilingual(), self.name.starts_with("large-v3")) {
            (false, _) => "English",
            (true, false) => "99",
            (true, true) => "100",
        }
    }

    /// File name in a models folder.
    pub fn file_name(&self) -> String {
        file_name(self.name)
    }

    /// Whether a checksum is that of one of the published files.
    pub fn has_checksum(&self, sha256: &str) -> bool {
        self.published.iter().any(|file| file.sha256 == sha256)
    }

    /// The accepted checksums, for messages.
    pub(crate) fn checksums(&self) -> String {
        let all: Vec<&str> = self.published.iter().map(|file| file.sha256).collect();
        all.join(" or ")
    }
}

/// `ggml-<name>.bin`.
pub(crate) fn file_name(name: &str) -> String {
    format!("ggml-{name}.bin")
}

/// The name that an alias stands for, or the name itself.
pub fn canonical(name: &str) -> &str {
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, target)| target)
}

/// Looks a name or an alias up.
pub fn find(name: &str) -> Option<&'static CatalogueEntry> {
    let name = canonical(name);
    CATALOGUE.iter().find(|entry| entry.name == name)
}

/// Like [`find`], with the nearest names in the error.
pub fn require(name: &str) -> Result<&'static CatalogueEntry, ModelError> {
    find(name).ok_or_else(|| ModelError::UnknownName {
        name: name.to_owned(),
        near: near(name),
    })
}

/// Up to three catalogue names that look like `name`, best first.
pub(crate) fn near(name: &str) -> Vec<String> {
    let names = CATALOGUE
        .iter()
        .map(|e| e.name)
        .chain(ALIASES.iter().map(|(alias, _)| *alias));
    let mut scored: Vec<(f64, &str)> = names
        .map(|known| {
            (
                strsim::jaro_winkler(&name.to_ascii_lowercase(), known),
                known,
            )
        })
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(3)
        .map(|(_, known)| known.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ggml::ElementType;
    use crate::models::ggml::layout::{Dimensions, tensors};
    use crate::models::ggml::mel::FREQUENCY_BINS;

    #[test]
    fn large_means_the_newest_large_and_turbo_its_fast_variant() {
        assert_eq!(find("large").map(|e| e.name), Some("large-v3"));
        assert_eq!(find("turbo").map(|e| e.name), Some("large-v3-turbo"));
        for (alias, target) in ALIASES {
            assert!(find(target).is_some(), "{alias} points nowhere");
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_ones() {
        let error = require("medum").unwrap_err().to_string();
        assert!(error.contains("did you mean medium"), "{error}");
        let error = require("xyzzy").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn checksums_are_whole_and_none_is_there_twice() {
        let mut seen = std::collections::HashSet::new();
        for entry in CATALOGUE {
            assert!(!entry.published.is_empty(), "{}", entry.name);
            for file in entry.published {
                assert_eq!(file.sha256.len(), 64, "{}", entry.name);
                assert!(
                    file.sha256
                        .bytes()
                        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                );
                assert!(seen.insert(file.sha256), "{}", entry.name);
            }
        }
    }

    fn dimensions(entry: &CatalogueEntry) -> Dimensions {
        let (n, layers) = match entry.name.split(['-', '.']).next() {
            Some("tiny") => (384, 4),
            Some("base") => (512, 6),
            Some("small") => (768, 12),
            Some("medium") => (1024, 24),
            _ => (1280, 32),
        };
        let third = entry.name.starts_with("large-v3");
        Dimensions {
            n_vocab: if third {
                51_866
            } else {
                51_864 + u32::from(entry.multilingual())
            },
            n_audio_ctx: 1500,
            n_audio_state: n,
            n_audio_head: n / 64,
            n_audio_layer: layers,
            n_text_ctx: 448,
            n_text_state: n,
            n_text_head: n / 64,
            n_text_layer: if entry.name.contains("turbo") {
                4
            } else {
                layers
            },
            n_mels: if third { 128 } else { 80 },
        }
    }

    /// The sizes follow from the architecture: a check of the catalogue and of our layout at once.
    #[test]
    fn the_published_sizes_follow_from_the_tensors() {
        // Bytes of the vocabulary section: 4 for each token's length and the text itself.
        const MULTILINGUAL_TOKENS: u64 = 508_085;
        const ENGLISH_TOKENS: u64 = 521_838;
        for entry in CATALOGUE {
            let dimensions = dimensions(entry);
            let weights = ["q5_0", "q5_1", "q8_0"]
                .into_iter()
                .find(|suffix| entry.name.ends_with(suffix))
                .map_or(ElementType::F16, |name| {
                    ElementType::of(name.parse().unwrap())
                });
            let tensors: u64 = tensors(&dimensions)
                .iter()
                .map(|spec| {
                    let data = weights.for_role(spec.role).bytes_of(&spec.shape).unwrap();
                    12 + 4 * spec.shape.len() as u64 + spec.name.len() as u64 + data
                })
                .sum();
            let filters = 8 + u64::from(dimensions.n_mels) * FREQUENCY_BINS as u64 * 4;
            let tokens = if entry.multilingual() {
                MULTILINGUAL_TOKENS
            } else {
                ENGLISH_TOKENS
            };
            let size = 12 * 4 + filters + 4 + tokens + tensors;
            for file in entry.published {
                // The token <|endoftext|> of the older English files: its length and 13 letters.
                let older = if entry.multilingual() { 0 } else { 4 + 13 };
                let fits = file.size_bytes == size || file.size_bytes == size + older;
                assert!(fits, "{}: {} for {size}", entry.name, file.size_bytes);
            }
        }
    }
}

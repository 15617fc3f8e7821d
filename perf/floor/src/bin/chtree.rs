//! `chtree TREE contents|modes|extras PERCENT [SEED]`: what happens to a tree between two syncs.
//!
//! * contents: PERCENT of the regular files get other bytes, as many as they had, and the mtime of now
//! * modes:    PERCENT of the regular files get another mode: the owner's execute bit is flipped
//! * extras:   each directory gets new empty files, PERCENT of the regular files it has
//!
//! Which files, is drawn from SEED (1 unless given) and the order of the names.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use floor::{fail, scramble};
use rustix::fs::OFlags;

const USAGE: &str = "chtree TREE contents|modes|extras PERCENT [SEED]";
const OWNER_EXECUTES: u32 = 0o100;

#[derive(Clone, Copy)]
enum Change {
    Contents,
    Modes,
    Extras,
}

struct Changer {
    change: Change,
    percent: f64,
    seed: u64,
    /// Numbers drawn so far.
    drawn: u64,
    changed: u64,
}

impl Changer {
    fn random(&mut self) -> u64 {
        self.drawn += 1;
        scramble(scramble(self.seed).wrapping_add(self.drawn))
    }

    fn is_drawn(&mut self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a chance need not be exact")]
        let drawn = self.random() as f64 / u64::MAX as f64;
        drawn * 100.0 < self.percent
    }

    fn change_dir(&mut self, dir: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut files = 0;
        for entry in entries {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                self.change_dir(&path)?;
            } else if kind.is_file() {
                files += 1;
                if !matches!(self.change, Change::Extras) && self.is_drawn() {
                    self.change_file(&path, &entry.metadata()?)?;
                }
            }
        }
        if matches!(self.change, Change::Extras) {
            for number in 0..files {
                if self.is_drawn() {
                    File::create_new(dir.join(format!("extra{number:08}")))?;
                    self.changed += 1;
                }
            }
        }
        Ok(())
    }

    fn change_file(&mut self, path: &Path, meta: &Metadata) -> io::Result<()> {
        self.changed += 1;
        if matches!(self.change, Change::Modes) {
            let mode = meta.permissions().mode() ^ OWNER_EXECUTES;
            return fs::set_permissions(path, Permissions::from_mode(mode));
        }
        let mut file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        let mut left = meta.len();
        let block: Vec<u8> = (0..512).flat_map(|_| self.random().to_le_bytes()).collect();
        while left > 0 {
            let len = left.min(block.len() as u64);
            file.write_all(&block[..usize::try_from(len).expect("below a block")])?;
            left -= len;
        }
        file.set_modified(std::time::SystemTime::now())
    }
}

fn parse(words: &[String]) -> Result<(&Path, Changer), String> {
    let [tree, change, percent, seed @ ..] = words else {
        return Err(USAGE.into());
    };
    let change = match change.as_str() {
        "contents" => Change::Contents,
        "modes" => Change::Modes,
        "extras" => Change::Extras,
        _ => return Err(format!("{change:?} is no change; {USAGE}")),
    };
    let percent = percent
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| format!("{percent:?} is not a percentage"))?;
    let seed = match seed {
        [] => 1,
        [seed] => seed
            .parse()
            .map_err(|_| format!("{seed:?} is not a number"))?,
        _ => return Err(USAGE.into()),
    };
    let changed = 0;
    Ok((
        Path::new(tree),
        Changer {
            change,
            percent,
            seed,
            drawn: 0,
            changed,
        },
    ))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (tree, mut changer) = parse(&words).unwrap_or_else(|error| fail("chtree", error));
    changer
        .change_dir(tree)
        .unwrap_or_else(|error| fail(tree.display(), error));
    println!("{} changed", changer.changed);
}

//! `guesthouse image`: disk images are made, copied, looked at.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use block::tools::{self, Check, CreateOptions, Info, NewSize};
use block::{BlockError, Format, ImageOptions};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use machine::Size;

use crate::args::one_of;
use crate::signals::Signals;

/// An image contradicts itself; it only wastes room. As `qemu-img check` has it.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;

/// What to do with an image.
#[derive(Debug, Subcommand)]
pub enum ImageAction {
    /// Make an empty image.
    Create {
        #[command(flatten)]
        target: Target,
        /// Image that it is based on: what it does not have itself is read from there. A relative path begins at the
        /// new image's folder.
        #[arg(long, short, value_name = "FILE", requires = "backing_format")]
        backing: Option<String>,
        /// That image's format, which goes into the new one's header.
        #[arg(long, short = 'F', value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
        backing_format: Option<Format>,
        /// Folder or tar archive (also packed by gzip, xz or zstd) whose content is to be on the disk, in one ext4 file system.
        /// Owners, modes and devices are those that the archive tells, also for an ordinary user.
        #[arg(long, value_name = "SOURCE", conflicts_with_all = ["backing", "format"])]
        from: Option<PathBuf>,
        /// The image.
        file: PathBuf,
        /// Size of the disk, such as 10G, or in bytes; without it, the base's, or what the files need.
        #[arg(value_parser = size)]
        size: Option<u64>,
    },
    /// Copy a disk into an image of any format, with all that it is based on.
    Convert {
        /// The source's format, instead of a look at its content.
        #[arg(long, short = 'f', value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
        source_format: Option<Format>,
        /// Open the files that the source names as its base: only for images that you trust.
        #[arg(long)]
        backing: bool,
        #[command(flatten)]
        target: Target,
        /// The disk to copy.
        source: PathBuf,
        /// The image to make.
        file: PathBuf,
    },
    /// Say whether an image is whole. Status 2: it contradicts itself; 3: it wastes room; 0: neither.
    Check(Look),
    /// Say what an image is. What it is based on is named, and not opened.
    Info(Look),
    /// Change the size of the disk in an image.
    Resize {
        /// Its format, instead of a look at its content.
        #[arg(long, short, value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
        format: Option<Format>,
        /// A smaller size is meant: what is beyond it is lost.
        #[arg(long)]
        shrink: bool,
        /// The image.
        file: PathBuf,
        /// The size, or with + or - in front what to add or take.
        #[arg(allow_hyphen_values = true, value_parser = new_size)]
        size: NewSize,
    },
}

/// How a new image is to be.
#[derive(Debug, Args)]
pub struct Target {
    /// Its format; without, qcow2 if its name ends so, else raw.
    #[arg(long, short = 'O', value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
    format: Option<Format>,
    /// Clusters of a qcow2 image: 512 to 2M.
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    cluster_size: Size,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
}

impl Target {
    fn options(&self, file: &Path) -> CreateOptions {
        let by_name = match file.extension() {
            Some(end) if end == "qcow2" => Format::Qcow2,
            _ => Format::Raw,
        };
        CreateOptions {
            path: file.to_owned(),
            format: self.format.unwrap_or(by_name),
            len: None,
            backing: None,
            cluster: self.cluster_size.get(),
            force: self.force,
        }
    }
}

/// An image to look at.
#[derive(Debug, Args)]
pub struct Look {
    /// Its format, instead of a look at its content.
    #[arg(long, short, value_name = "FORMAT", value_parser = one_of::<Format>(Format::NAMES))]
    format: Option<Format>,
    /// As JSON, with the names that qemu-img uses.
    #[arg(long)]
    json: bool,
    /// The image.
    file: PathBuf,
}

/// A size, without a unit in bytes.
fn size(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_| text.parse::<Size>().map(Size::get))
}

fn new_size(text: &str) -> Result<NewSize, String> {
    match text.split_at_checked(1) {
        Some(("+", more)) => Ok(NewSize::More(size(more)?)),
        Some(("-", less)) => Ok(NewSize::Less(size(less)?)),
        _ => Ok(NewSize::Exactly(size(text)?)),
    }
}

/// Does it; the exit status.
pub fn run(action: &ImageAction, signals: &Signals) -> anyhow::Result<u8> {
    match action {
        ImageAction::Create { target, from: Some(source), file, size, .. } => {
            tools::create_ext4(source, file, *size, target.force)?;
        }
        ImageAction::Create { target, backing, backing_format, file, size, .. } => {
            let mut options = target.options(file);
            options.len = *size;
            options.backing = backing.clone().zip(*backing_format);
            tools::create(&options)?;
        }
        ImageAction::Convert { source_format, backing, target, source, file } => {
            let source = ImageOptions {
                path: source.clone(),
                format: *source_format,
                backing: *backing,
                ..ImageOptions::default()
            };
            watched(signals, |progress| tools::convert(&source, &target.options(file), progress))?;
        }
        ImageAction::Check(look) => {
            let found = watched(signals, |progress| tools::check(&look.file, look.format, progress))?;
            return told(&found, look);
        }
        ImageAction::Info(look) => describe(&tools::info(&look.file, look.format)?, look.json)?,
        ImageAction::Resize { format, shrink, file, size } => {
            tools::resize(file, *format, *size, *shrink)?;
        }
    }
    Ok(0)
}

/// Shows on a terminal how far the work is; a signal ends it.
fn watched<T>(
    signals: &Signals,
    work: impl FnOnce(tools::Progress<'_>) -> Result<T, BlockError>,
) -> Result<T, BlockError> {
    let style = ProgressStyle::with_template("{percent:>3}% [{bar:40}] {eta}");
    let bar = style
        .ok()
        .filter(|_| std::io::stderr().is_terminal())
        .map(|style| ProgressBar::no_length().with_style(style));
    let result = work(&mut |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        signals.caught().is_none()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result
}

fn told(found: &Check, look: &Look) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    if look.json {
        serde_json::to_writer_pretty(&mut out, found)?;
        writeln!(out)?;
    } else {
        for finding in &found.findings {
            writeln!(out, "{finding}")?;
        }
        match (found.corruptions, found.leaks) {
            (0, 0) => writeln!(out, "the image is whole")?,
            (corruptions, leaks) => {
                writeln!(
                    out,
                    "{corruptions} contradictions and {leaks} leaked clusters: qemu-img check -r all repairs"
                )?;
            }
        }
    }
    Ok(match found {
        Check { corruptions: 1.., .. } => CORRUPT,
        Check { leaks: 1.., .. } => LEAKS,
        _ => 0,
    })
}

fn describe(info: &Info, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, info)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "image: {}", info.filename.display())?;
    writeln!(out, "file format: {}", info.format)?;
    writeln!(out, "virtual size: {} ({} bytes)", Size::bytes(info.virtual_size), info.virtual_size)?;
    writeln!(out, "disk size: {} bytes", info.actual_size)?;
    if let (Some(cluster), Some(compat)) = (info.cluster_size, info.compat) {
        writeln!(out, "cluster_size: {cluster}\ncompat: {compat}")?;
    }
    if let Some(name) = &info.backing_filename {
        writeln!(out, "backing file: {name}")?;
    }
    if let Some(format) = &info.backing_filename_format {
        writeln!(out, "backing file format: {format}")?;
    }
    if info.snapshots != 0 {
        writeln!(out, "snapshots: {}", info.snapshots)?;
    }
    if info.dirty_flag {
        writeln!(out, "it was not closed: repair it with qemu-img check -r all")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_be_differences() {
        assert_eq!(new_size("1G"), Ok(NewSize::Exactly(1 << 30)));
        assert_eq!(new_size("+512M"), Ok(NewSize::More(512 << 20)));
        assert_eq!(new_size("-1K"), Ok(NewSize::Less(1024)));
        assert_eq!(new_size("1536"), Ok(NewSize::Exactly(1536)));
        assert!(new_size("").is_err() && new_size("+").is_err() && new_size("+-1").is_err());
    }
}

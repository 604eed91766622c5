//! Tables as `docker ps` and `ip` print them: columns as wide as what is in them.

use std::io::{self, Write};

/// Writes rows of cells, two blanks apart; the last cell of a row is not filled up.
pub fn write(mut out: impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// A size for people: `512M`, `1.5G`.
pub fn size(bytes: u64) -> String {
    let units = ["", "K", "M", "G", "T"];
    let step = (bytes.max(1).ilog2() / 10).min(4);
    let number = bytes as f64 / (1u64 << (10 * step)) as f64;
    let digits = usize::from(number < 10.0 && number.fract() >= 0.05);
    format!("{number:.digits$}{}", units.get(step as usize).unwrap_or(&""))
}

/// A time for people: `12 s`, `3 min`.
pub fn time(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let mut out = Vec::new();
        write(&mut out, &[row(&["ID", "NAME"]), row(&["\u{e9}\u{e9}\u{e9}", ""]), row(&["1", "x"])]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID   NAME\n\u{e9}\u{e9}\u{e9}\n1    x\n");
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1023, 1024, 1536, 512 << 20, 10 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0", "1023", "1K", "1.5K", "512M", "10G", "16777216T"]);
        assert_eq!(
            [999, 119_999, 120_000, 7_200_000, 172_800_000].map(time),
            ["0 s", "119 s", "2 min", "2 h", "2 days"]
        );
    }
}

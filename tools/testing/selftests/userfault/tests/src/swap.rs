// SPDX-License-Identifier: GPL-2.0

//! Pages in swap.

use crate::harness::{Outcome, Skip};
use crate::proc::{ensure_entries, frames, vmstat, Entry};
use crate::special::pipe_with;
use crate::sys::{page, Span};
use crate::{ensure_eq, frame, knobs};
use anyhow::{bail, ensure, Context};
use nix::errno::Errno;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const ZRAM_SIZE: &str = "/sys/block/zram0/disksize";
const SWAP_BYTES: u64 = 128 << 20;

/// Moves all pages of a range out to swap, or skips the test where there is no swap.
pub fn out(span: Span) -> Outcome {
    ensure_on()?;
    page_out_until(span, "in swap", Entry::swapped)
}

/// Moves pages of a range, at most 16, out to swap while a pipe holds them, so that they stay in
/// memory, in the swap cache.  Returns their frames.
pub fn out_to_cache(span: Span) -> anyhow::Result<Vec<u64>> {
    let frames = frames(span)?;
    let pipe = pipe_with(span)?;
    out(span)?;
    drop(pipe);
    for pfn in &frames {
        let cached = frame::in_swap_cache(*pfn)?;
        ensure!(cached, "frame {pfn:#x} is not in the swap cache");
    }
    Ok(frames)
}

/// Lets a range that is in swap be read into the swap cache, as it is by readahead.
pub fn read_ahead(span: Span) -> Outcome {
    let before = vmstat("pswpin")?;
    span.advise(libc::MADV_WILLNEED).context("MADV_WILLNEED")?;
    let read = vmstat("pswpin")? - before;
    ensure_eq!(read, span.nr_pages() as u64, "pages read");
    ensure_entries(span, "in swap", Entry::swapped)
}

/// How many folios of so many pages have gone to swap as a whole.
pub fn whole_out(pages: usize) -> anyhow::Result<u64> {
    knobs::thp_number(&knobs::folio_file(pages, "stats/swpout"))
}

/// How many anonymous folios of several pages there are.
pub fn anonymous_folios() -> anyhow::Result<i64> {
    let mut count = 0;
    for path in knobs::multi_size()? {
        let path = path.join("stats/nr_anon").display().to_string();
        // Too few of a size are shown as very many.
        count += knobs::number(&path)? as i64;
    }
    Ok(count)
}

/// Skips a test of folios in swap, at its end, where none went there as a whole: not every kernel
/// does that.
pub fn ensure_whole(whole: bool) -> Outcome {
    if !whole {
        return Err(Skip("no folio of several pages went to swap as a whole".into()).into());
    }
    Ok(())
}

/// Fails if `call` has pages read in from swap.
pub fn ensure_unread(call: impl FnOnce() -> Outcome) -> Outcome {
    let before = vmstat("pswpin")?;
    call()?;
    ensure_eq!(vmstat("pswpin")?, before, "pages read from swap");
    Ok(())
}

/// Asks for the range to be reclaimed until each of its entries is as wanted: a page that was just
/// touched may be on a list of another CPU, where reclaim does not see it, until compaction empties
/// those lists.
pub fn page_out_until(span: Span, what: &str, want: fn(Entry) -> bool) -> Outcome {
    const LIMIT: Duration = Duration::from_secs(10);
    let start = Instant::now();
    loop {
        span.advise(libc::MADV_PAGEOUT).context("MADV_PAGEOUT")?;
        match ensure_entries(span, what, want) {
            Err(_) if start.elapsed() < LIMIT => {
                frame::compact()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Switches swap on if it is not, or skips the test where there is none.
pub fn ensure_on() -> Outcome {
    if !devices()?.is_empty() {
        return Ok(());
    }
    let device = match Path::new(ZRAM_SIZE).exists() {
        true => {
            knobs::set(ZRAM_SIZE, SWAP_BYTES)?;
            "/dev/zram0"
        }
        false if Path::new("/dev/ram0").exists() => "/dev/ram0",
        false => return Err(Skip("no swap, and no device to make one".into()).into()),
    };
    on(device)
}

/// Makes swap of a device and switches it on.
pub fn on(device: &str) -> Outcome {
    write_header(device)?;
    let path = CString::new(device)?;
    // SAFETY: A valid string; the device is nobody's.
    match Errno::result(unsafe { libc::swapon(path.as_ptr(), 0) }) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS | Errno::EPERM) => {
            Err(Skip("this kernel or its limits have no swap".into()).into())
        }
        Err(error) => bail!("swapon {device}: {error}"),
    }
}

/// Switches all swap off, which brings back what is in it.  The next test that needs it switches
/// it on again.
pub fn off() -> Outcome {
    for device in devices()? {
        let path = CString::new(device.as_str())?;
        // SAFETY: A valid string.
        Errno::result(unsafe { libc::swapoff(path.as_ptr()) })
            .with_context(|| format!("swapoff {device}"))?;
    }
    Ok(())
}

/// What an advice gets that anonymous memory takes: without swap, MADV_WILLNEED is for files only.
pub fn advised(advice: i32) -> Result<(), Errno> {
    match advice {
        libc::MADV_WILLNEED if !Path::new("/proc/swaps").exists() => Err(Errno::EBADF),
        _ => Ok(()),
    }
}

/// Where swap is on.
pub fn devices() -> anyhow::Result<Vec<String>> {
    match fs::read_to_string("/proc/swaps") {
        Ok(text) => Ok(text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()),
        Err(_) => Err(Skip("this kernel has no swap".into()).into()),
    }
}

/// What mkswap writes: a version, the last page's number, and the signature at the page's end.
fn write_header(device: &str) -> Outcome {
    const SIGNATURE: &[u8] = b"SWAPSPACE2";
    const INFO: usize = 1024;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| device.to_owned())?;
    let pages = device_bytes(device)? / page() as u64;
    let mut header = vec![0; page()];
    header[INFO..INFO + 4].copy_from_slice(&1u32.to_ne_bytes());
    header[INFO + 4..INFO + 8].copy_from_slice(&u32::try_from(pages - 1)?.to_ne_bytes());
    header[page() - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    file.write_all_at(&header, 0)
        .with_context(|| device.to_owned())
}

/// How large a device is.
pub fn device_bytes(device: &str) -> anyhow::Result<u64> {
    Ok(512 * knobs::number(&(device.replace("/dev/", "/sys/class/block/") + "/size"))?)
}

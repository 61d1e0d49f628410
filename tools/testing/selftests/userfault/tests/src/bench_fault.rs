// SPDX-License-Identifier: GPL-2.0

//! Measures what a fault costs that another thread resolves, told by a descriptor: ours, and
//! mainline's; alone, and with others asleep in faults of the same descriptor.

use crate::bench::{least, print, touch_all, A_PAGE};
use crate::range::Range;
use crate::sys::{page, remap_raw, Area, Map, Span, RAP_WAKE};
use crate::uffd;
use anyhow::{ensure, Context};
use std::os::fd::OwnedFd;
use std::thread;

/// So many are asleep.
const ASLEEP: [usize; 5] = [0, 16, 64, 256, 1024];
/// What a thread has to do that sleeps.
const STACK: usize = 64 << 10;

/// A descriptor, and how a page gets to its place with it.
enum Server {
    /// Ours; the call that moves wakes.
    Remap(Range),
    /// Ours; a write wakes.
    RemapAndWrite(Range),
    /// Mainline's.
    Move(OwnedFd),
    Copy(OwnedFd),
}

impl Server {
    fn name(&self) -> &'static str {
        match self {
            Server::Remap(_) => "remap_anon_pages",
            Server::RemapAndWrite(_) => "remap_anon_pages, write",
            Server::Move(_) => "UFFDIO_MOVE",
            Server::Copy(_) => "UFFDIO_COPY",
        }
    }

    fn serve(&self, span: Span) -> anyhow::Result<()> {
        match self {
            Server::Remap(fd) | Server::RemapAndWrite(fd) => {
                span.mark()?;
                fd.register(span).map(drop).context("register")
            }
            Server::Move(fd) | Server::Copy(fd) => uffd::add_missing(fd, span),
        }
    }

    fn read(&self) -> nix::Result<usize> {
        match self {
            Server::Remap(fd) | Server::RemapAndWrite(fd) => fd.read().map(|addr| addr as usize),
            Server::Move(fd) | Server::Copy(fd) => uffd::read_fault(fd),
        }
    }

    fn resolve(&self, dst: Span, src: Span) -> nix::Result<usize> {
        match self {
            Server::Remap(_) => remap_raw(dst.addr, src.addr, src.len, RAP_WAKE),
            Server::RemapAndWrite(fd) => {
                let moved = remap_raw(dst.addr, src.addr, src.len, 0)?;
                fd.wake(dst)?;
                Ok(moved)
            }
            Server::Move(fd) => uffd::move_pages(fd, dst, src),
            Server::Copy(fd) => uffd::copy(fd, dst, src),
        }
    }

    /// What a page costs whose fault another thread resolves, while so many are asleep in others.
    fn cost(self, asleep: usize) -> anyhow::Result<f64> {
        let others = Area::pages(asleep.max(1))?;
        self.serve(*others)?;
        thread::scope(|scope| {
            for part in others.each_page().take(asleep) {
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || part.load())?;
            }
            for _ in 0..asleep {
                self.read()?;
            }
            let cost = least(|| self.round());
            // They are let go: their pages are filled as ever.
            if matches!(self, Server::Remap(_) | Server::RemapAndWrite(_)) {
                others.unmark()?;
            }
            drop(self);
            cost
        })
    }

    fn round(&self) -> anyhow::Result<(u64, usize)> {
        let (dst, src) = (Map::huge_pages(1).map()?, Map::huge_pages(1).map()?);
        src.fill_pages(1);
        self.serve(*dst)?;
        let (dst, src) = (*dst, *src);
        let took = thread::scope(|scope| {
            let handler = scope.spawn(move || -> anyhow::Result<()> {
                for _ in 0..dst.nr_pages() {
                    let at = self.read()? - dst.addr;
                    let from = Span::new(src.addr + at, page());
                    let moved = self.resolve(Span::new(dst.addr + at, page()), from)?;
                    ensure!(moved == page(), "{}", self.name());
                }
                Ok(())
            });
            let took = touch_all(dst);
            handler.join().expect("no panic").map(|()| took)
        })?;
        Ok((took, dst.nr_pages()))
    }
}

/// Measures everything.
pub fn run() -> anyhow::Result<()> {
    for asleep in ASLEEP {
        let work = match asleep {
            0 => "a fault resolved by a thread".to_owned(),
            _ => format!("a fault resolved by a thread, {asleep} asleep"),
        };
        let mut servers = vec![
            Server::Remap(Range::new()?),
            Server::Move(uffd::open_missing()?),
        ];
        if asleep == 0 {
            servers.insert(1, Server::RemapAndWrite(Range::new()?));
            servers.push(Server::Copy(uffd::open_missing()?));
        }
        for server in servers {
            let name = server.name();
            let cost = server
                .cost(asleep)
                .with_context(|| format!("{work}, {name}"))?;
            print(&work, name, A_PAGE, cost);
        }
    }
    Ok(())
}

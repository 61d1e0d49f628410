use crate::ctx::Ctx; pub fn run(_: &Ctx) -> anyhow::Result<()> { Ok(()) }

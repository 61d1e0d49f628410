use crate::ctx::Ctx; pub fn run(c: &Ctx) -> anyhow::Result<()> { prove(c) } pub fn prove(_:&Ctx)-> anyhow::Result<()> { Ok(()) }

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Sourced by the Makefile: finds a cargo that can build xtask, and installs one where there is
# none. Everything else that is needed, xtask installs itself.

# Whether $1 is a cargo of 1.85 or newer whose rustc runs.
uf_fit() {
	uf_version=$("$1" --version 2>/dev/null) || return 1
	uf_version=${uf_version#cargo }
	uf_major=${uf_version%%.*}
	uf_minor=${uf_version#*.}
	uf_minor=${uf_minor%%.*}
	[ "$uf_major" -gt 1 ] || { [ "$uf_major" -eq 1 ] && [ "$uf_minor" -ge 85 ]; }
}

uf_find() {
	for uf_cargo in ${CARGO:+"$CARGO"} cargo "$HOME/.cargo/bin/cargo" /usr/bin/cargo; do
		if uf_fit "$uf_cargo" && command -v cc >/dev/null; then
			CARGO=$uf_cargo
			export CARGO
			return 0
		fi
	done
	return 1
}

uf_install() {
	if ! command -v apt-get >/dev/null; then
		echo "error: cargo 1.85 or newer and a C compiler are needed; see https://rustup.rs" >&2
		return 1
	fi
	uf_sudo=
	if [ "$(id -u)" -ne 0 ]; then
		uf_sudo="sudo -E"
	fi
	# Debian 12 has a cargo that is too old. It and Debian 13 have the newest under another name.
	uf_packages="cargo rustc gcc libc6-dev"
	if ! LC_ALL=C apt-cache policy cargo-web rustc 2>/dev/null | grep -q 'Candidate: [1-9]'; then
		$uf_sudo apt-get -q update || return 1
	fi
	if LC_ALL=C apt-cache policy cargo-web 2>/dev/null | grep -q 'Candidate: [1-9]'; then
		uf_packages="cargo-web rustc-web gcc libc6-dev"
	fi
	echo "missing: $uf_packages"
	if [ -t 0 ]; then
		printf 'install them with apt-get? [Y/n] '
		read -r uf_answer
		case $uf_answer in
		'' | [Yy]*) ;;
		*) return 1 ;;
		esac
	fi
	# shellcheck disable=SC2086
	$uf_sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $uf_packages
}

uf_find || { uf_install && uf_find; } || {
	echo "error: no cargo of 1.85 or newer could be found or installed" >&2
	false
}

#!/bin/bash
# Builds a small, real Linux disk image from Debian packages, without loop devices or mounts:
#
#   scripts/demo-image.sh [--dir DIRECTORY] [--force] [--qcow2] [--agent]
#
# prints the path of the image (DIRECTORY/demo.raw, or demo.qcow2) as its only line on standard output. A second run finds
# the finished image and does nothing. DIRECTORY is .vm in the checkout unless given. With --agent the QEMU guest agent runs in it.
#
#   sector 0        MBR: syslinux' mbr.bin and the partition table
#   1 MiB .. 33     partition 1, FAT16, active: syslinux, the Debian cloud kernel, a small initramfs
#   33 MiB .. 192   partition 2, ext4, label demo-root: busybox, init, a shell on the serial console ttyS0
#
# syslinux and not extlinux or GRUB, because it alone installs itself into a partition inside of a plain file
# (--offset); the others want a mounted file system or a block device. The image boots through any BIOS firmware.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
guest=$here/demo-guest
directory=$here/../.vm
force=
format=raw
agent=
while [ $# -gt 0 ]; do
  case $1 in
    --dir) directory=${2:?--dir needs a directory}; shift 2 ;;
    --force) force=1; shift ;;
    --qcow2) format=qcow2; shift ;;
    --agent) agent=-agent; shift ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "demo-image.sh: unknown argument $1; see --help" >&2; exit 64 ;;
  esac
done
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin MTOOLS_SKIP_CHECK=1
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
say() { printf '%s\n' "$*" >&2; }

# The image depends on what builds it: a changed recipe is a changed name, so an old cached image is never used for it.
recipe=$(cat "$0" "$guest"/* | sha256sum | cut -c1-12)
raw=$directory/demo$agent-$recipe.raw

# need COMMAND PACKAGE ...: installs the packages whose command is missing, once, when root on Debian.
need() {
  local missing=()
  while [ $# -gt 0 ]; do
    if [[ $1 == /* ]]; then [ -e "$1" ] || missing+=("$2"); else command -v "$1" >/dev/null || missing+=("$2"); fi
    shift 2
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    apt-get update -q >/dev/null 2>&1 || true   # an outdated list may still do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
  else
    say "missing: ${missing[*]}"
    say "install them as root: apt-get install --no-install-recommends ${missing[*]}"
    exit 69
  fi
}

build() {
  [ "$(uname -m)" = x86_64 ] || { say "the demonstration image is built on x86_64 only"; exit 69; }
  need syslinux syslinux /usr/lib/syslinux/mbr/mbr.bin syslinux-common mcopy mtools mke2fs e2fsprogs \
    sfdisk fdisk depmod kmod cpio cpio xz xz-utils /bin/busybox busybox-static
  command -v apt-get >/dev/null || { say "the kernel comes from a Debian package; apt-get was not found"; exit 69; }
  work=$(mktemp -d "$directory/build.XXXXXX")
  trap 'rm -rf "$work"' EXIT

  # The kernel: downloaded and unpacked, never installed on this host.
  local package
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ { print $2; exit }')
  if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
    apt-get update -q >/dev/null 2>&1 || true
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ { print $2; exit }')
  fi
  [ -n "$package" ] || { say "no package linux-image-cloud-amd64; run: apt-get update"; exit 69; }
  mkdir "$work/deb" "$work/kernel"
  chmod 755 "$work" "$work/deb"
  (cd "$work/deb" && apt-get -q -o APT::Sandbox::User="$(id -un)" download "$package" >/dev/null)
  dpkg-deb --fsys-tarfile "$work"/deb/*.deb | tar -x -C "$work/kernel" ./boot ./lib
  local version
  version=$(ls "$work/kernel/lib/modules")
  depmod -b "$work/kernel" "$version"

  # The initramfs: busybox and the modules in load order.
  local ram=$work/ram file name
  mkdir -p "$ram"/{bin,sbin,proc,sys,dev,mnt,modules}
  cp /bin/busybox "$ram/bin/busybox"
  for name in sh mount umount insmod findfs usleep cat echo switch_root; do ln -s busybox "$ram/bin/$name"; done
  install -m 755 "$guest/initramfs-init" "$ram/init"
  for name in virtio_pci virtio_blk virtio_net virtio_balloon virtio_console ext4 crc32c_generic button evdev; do
    modprobe -d "$work/kernel" -S "$version" --show-depends "$name" | awk '$1 == "insmod" { print $2 }'
  done | awk '!seen[$0]++' > "$work/modules"
  while read -r file; do
    name=$(basename "$file"); name=${name%.xz}
    case $file in *.xz) xz -dc "$file" > "$ram/modules/$name" ;; *) cp "$file" "$ram/modules/$name" ;; esac
    echo "$name" >> "$ram/modules/order"
  done < "$work/modules"
  (cd "$ram" && find . | sort | cpio -o -H newc --quiet -R 0:0 | gzip -1 > "$work/initrd.img")

  # The root file system.
  local root=$work/root
  mkdir -p "$root"/{bin,sbin,usr,proc,sys,dev,run,tmp,mnt,root,etc/init.d,etc/acpi/PWRF}
  ln -s ../bin "$root/usr/bin"; ln -s ../sbin "$root/usr/sbin"
  cp /bin/busybox "$root/bin/busybox"
  for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"; done
  ln -s ../bin/busybox "$root/sbin/init"; ln -s ../bin/busybox "$root/sbin/poweroff"; ln -s ../bin/busybox "$root/sbin/reboot"
  install -m 644 "$guest/inittab" "$root/etc/inittab"
  install -m 755 "$guest/start" "$guest/stop" "$root/etc/init.d/"
  install -m 755 "$guest/power-button" "$root/etc/acpi/PWRF/00000080"
  install -m 755 "$guest/udhcpc.sh" "$root/etc/udhcpc.sh"
  echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
  echo 'root:x:0:' > "$root/etc/group"
  echo "export PATH=/bin:/sbin HOME=/root; cd /root; PS1='demo# '" > "$root/etc/profile"

  [ -z "$agent" ] || add_agent "$root"

  # The disk.
  local disk=$work/disk.raw
  truncate -s 192M "$disk"
  sfdisk -q "$disk" >/dev/null <<TABLE
label: dos
start=2048, size=65536, type=e, bootable
start=67584, type=83
TABLE
  dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
  mformat -i "$disk@@1M" -H 2048 -T 65536 -h 64 -s 32 -v DEMOBOOT ::
  mcopy -i "$disk@@1M" "$work"/kernel/boot/vmlinuz-* ::vmlinuz
  mcopy -i "$disk@@1M" "$work/initrd.img" "$guest/syslinux.cfg" ::
  syslinux --offset $((2048 * 512)) --install "$disk"
  # -E offset writes the file system into the partition; the size is that of the partition, in KiB.
  mke2fs -q -F -t ext4 -b 4096 -L demo-root -E root_owner=0:0,offset=$((67584 * 512)),lazy_itable_init=0 \
    -d "$root" "$disk" $(((192 * 1048576 - 67584 * 512) / 1024))k
  mv "$disk" "$raw"      # only a finished image ever has this name
}

# add_agent ROOT: the guest agent from its package, and the libraries that it names, from this host.
add_agent() {
  local root=$1 file
  need /usr/lib/x86_64-linux-gnu/libglib-2.0.so.0 libglib2.0-0 /usr/lib/x86_64-linux-gnu/liburing.so.2 liburing2 \
    /usr/lib/x86_64-linux-gnu/libnuma.so.1 libnuma1
  mkdir "$work/agent"
  chmod 755 "$work/agent"
  (cd "$work/agent" && apt-get -q -o APT::Sandbox::User="$(id -un)" download qemu-guest-agent >/dev/null)
  dpkg-deb -x "$work"/agent/*.deb "$work/agent/tree"
  install -m 755 "$work/agent/tree/usr/sbin/qemu-ga" "$root/sbin/qemu-ga"
  ldd "$root/sbin/qemu-ga" | grep -o '/[^ ]*' | while read -r file; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
  install -m 755 "$guest/shutdown" "$root/sbin/shutdown"
}

started=$SECONDS
if [ -n "$force" ] || [ ! -s "$raw" ]; then
  build
  say "demonstration image built in $((SECONDS - started)) s: $(du -k "$raw" | cut -f1) KiB on disk"
fi
ln -sfn "$(basename "$raw")" "$directory/demo$agent.raw"
if [ "$format" = raw ]; then echo "$raw"; exit 0; fi
need qemu-img qemu-utils
packed=${raw%.raw}.qcow2
if [ -n "$force" ] || [ ! -s "$packed" ]; then
  qemu-img convert -f raw -O qcow2 -c "$raw" "$packed.part"
  mv "$packed.part" "$packed"
fi
ln -sfn "$(basename "$packed")" "$directory/demo$agent.qcow2"
echo "$packed"

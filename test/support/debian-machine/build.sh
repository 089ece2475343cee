#!/bin/bash
# Builds an emulated Debian with systemd for tests: DIRECTORY/{vmlinuz,initrd,root.raw}. The package sources, and what authorises
# them, are those of this machine. A finished one is kept.
#
#   build.sh DIRECTORY
#
# The root file system is a plain ext4 without a partition table; the kernel is given to the emulator. The service `test-story` runs
# /story/run of the second disk and switches the machine off.
set -euo pipefail
directory=$1
recipe=$(sha256sum "$0" | cut -c1-12)
mkdir -p "$directory"
cd "$directory"
[ ! -e "done-$recipe" ] || exit 0
rm -rf -- root root.raw vmlinuz initrd ram done-*
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
. /etc/os-release

sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  if [ -s "$file" ]; then sources+=("$file"); fi
done
settings=()
while read -r line; do settings+=(--aptopt="$line"); done \
  < <(apt-config dump | grep -E '^Acquire::(http|https|Check)[^ ]* "..*";$' || true)
mmdebstrap --quiet --mode=root --variant=minbase "${settings[@]}" --aptopt='APT::Install-Recommends "false"' \
  --include=systemd,systemd-sysv,udev,dbus,linux-image-cloud-amd64,qemu-system-x86,qemu-utils,libstdc++6,libcap2-bin,busybox-static,iproute2,procps \
  "$VERSION_CODENAME" root "${sources[@]}" >mmdebstrap.log 2>&1

cp root/boot/vmlinuz-* vmlinuz
version=$(ls root/lib/modules)
mkdir -p ram/{bin,dev,proc,sys,new,modules}
cp root/bin/busybox ram/bin/busybox
for name in sh mount insmod switch_root sleep; do ln -s busybox "ram/bin/$name"; done
for name in virtio_pci virtio_blk ext4 crc32c_generic; do
  modprobe -d "$PWD/root" -S "$version" --show-depends "$name" | awk '$1 == "insmod" { print $2 }'
done | awk '!seen[$0]++' | while read -r file; do
  cp "$file" ram/modules/
  basename "$file" >>ram/modules/order
done
cat >ram/init <<'INIT'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read -r name; do insmod "/modules/$name"; done </modules/order
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /new && exec switch_root /new /sbin/init
INIT
chmod +x ram/init
(cd ram && find . | sort | cpio -o -H newc --quiet -R 0:0 | gzip -1 >../initrd)

cat >root/etc/systemd/system/test-story.service <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStartPre=/bin/mkdir -p /story
ExecStartPre=/bin/mount -o ro /dev/vdb /story
ExecStart=/bin/bash /story/run
ExecStopPost=-/bin/systemctl poweroff --force
[Install]
WantedBy=multi-user.target
UNIT
mkdir -p root/etc/systemd/system/multi-user.target.wants
ln -sf ../test-story.service root/etc/systemd/system/multi-user.target.wants/
for unit in apt-daily.timer apt-daily-upgrade.timer serial-getty@ttyS0.service getty@tty1.service; do
  ln -sf /dev/null "root/etc/systemd/system/$unit"
done
echo debian >root/etc/hostname
printf '127.0.0.1 localhost debian\n' >root/etc/hosts
echo '/dev/vda / ext4 defaults 0 1' >root/etc/fstab
rm -rf root/var/cache/apt/archives/*.deb root/usr/share/{doc,man,locale} root/boot/initrd* root/etc/apt/auth.conf* root/etc/apt/sources.list*
# Only what the emulator boots is kept of the kernel's modules.
mke2fs -q -F -t ext4 -O ^has_journal -d root root.raw 3G
rm -rf -- root ram
touch "done-$recipe"

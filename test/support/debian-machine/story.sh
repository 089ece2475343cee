#!/bin/bash
# Runs inside of the emulated Debian (build.sh), from the disk mounted at /story: installs the package, has its services killed,
# upgraded and removed while a guest writes to its disk. What it says on the console: `@ ok NAME`, `@ not ok NAME: WHY`, and
# `@ end` as the last line. Everything else is for reading.
#
# The guest is a boot sector (boot.raw) that writes its counter to its disk for ever and prints a dot for every 16th write, and
# an E for one that failed. Machines inside of machines are slow; it is as real to dvce as any other.
cd /
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
log=/var/log/story
data=/var/lib/dvce
disk=/vms/g/disk0
failed=0

step() { # NAME COMMAND...: the command must work
  local name=$1; shift
  echo "== $name ($(cut -d' ' -f1 /proc/uptime) s)"
  if "$@" >$log 2>&1; then
    echo "@ ok $name"
  else
    echo "@ not ok $name: exit $?: $(tail -c 600 $log | tr '\n' ' ')"
    failed=1
  fi
}
until_true() { # SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    if [ $SECONDS -ge $end ]; then echo "waited in vain for: $*"; return 1; fi
    sleep 1
  done
}
main_pid() { systemctl show -p MainPID --value "$1"; }
running() { systemctl is-active dvce-agent.socket dvce-blockd dvce-agent; }
guest_pid() { pgrep -f "qemu-system.*$data/run/vm/" | head -n 1; }
console() { cat $data/log/vm/*/console.log 2>/dev/null; }
dots() { console | tr -cd . | wc -c; }

writes_on() { # the guest writes more now than before, within a time that holds several restarts
  local before; before=$(dots)
  until_true 180 eval "[ \$(dots) -gt $((before + 2)) ]"
  no_io_error
}
no_io_error() { ! console | tail -c 200 | grep -q '^.*E'; }
same_guest() { [ "$(guest_pid)" = "$guest" ]; }
changed() { [ "$(main_pid "$1")" != "$2" ] && [ "$(main_pid "$1")" != 0 ]; }

stopped_is_restarted() { # UNIT: SIGSTOP, so that it gives no sign of life
  local old; old=$(main_pid "$1")
  kill -STOP "$old"
  until_true 300 changed "$1" "$old" && until_true 240 systemctl is-active "$1"
  journalctl -u "$1" | grep -i watchdog
}
killed_is_restarted() {
  local old; old=$(main_pid "$1")
  kill -9 "$old"
  until_true 120 changed "$1" "$old" && until_true 240 systemctl is-active "$1"
}
api_by_group() {
  useradd -m -G dvce member; useradd -m stranger
  su member -c 'dvce volume list -o json' && ! su stranger -c 'dvce volume list'
}
hardened() {
  local unit
  for unit in dvce-agent dvce-blockd; do
    [ "$(systemctl show -p NoNewPrivileges --value $unit)" = yes ] || return 1
    [ "$(systemctl show -p ProtectSystem --value $unit)" = strict ] || return 1
    [ "$(systemctl show -p Type --value $unit)" = notify ] || return 1
    grep -q 'NoNewPrivs:.1' "/proc/$(main_pid $unit)/status" || return 1
  done
  systemctl show -p StatusText dvce-agent dvce-blockd
  [ "$(systemctl show -p StatusText --value dvce-blockd)" = 'serving volumes' ]
}
owners_and_modes() { # the groups reach their sockets and nothing else
  local got; got=$(cd $data && stat -c '%n %a %U:%G' . run run/agent.sock run/blockd.sock store | tr '\n' ',')
  echo "$got"
  [[ $got == '. 751 root:root,run 751 root:root,run/agent.sock 660 root:dvce,run/blockd.sock 6'?'0 root:root,store '7?'0 root:root,' ]]
}
units_name_what_exists() {
  systemd-analyze verify dvce-agent.service dvce-agent.socket dvce-blockd.service || return 1
  local path
  for path in $(grep -hoE '(/usr|/etc|file:///usr)/[^ ]+' /lib/systemd/system/dvce-*); do
    [ -e "${path#file://}" ] || { echo "$path is missing"; return 1; }
  done
}
settings_have_a_schema() {
  dvce config check && dvce config schema | cmp - /usr/share/dvce/dvce-config.schema.json &&
    dvce config show data.dir --origin | grep 'file /etc/dvce/dvce.yaml' &&
    grep 'schema=/usr/share/dvce/dvce-config.schema.json' /etc/dvce/dvce.yaml
}
one_blockd() { [ "$(pgrep -fc 'dist/blockd/main.js')" = 1 ]; }
journal_has_priorities() { journalctl -u dvce-agent -p info -o cat | grep -q '^{"level":30'; }
# A client of NBD beside the guest: what was written and flushed is there after every end of blockd.
client() { qemu-io -f raw "$1" -c "$2" | tee -a $log.client; ! grep -qi -e fail -e error <<<"$(tail -n 3 $log.client)"; }
client_writes() {
  uri=$(dvce volume export /v --socket) && echo "$uri" &&
    client "$uri" 'write -P 0x5a 0 4M' && client "$uri" 'write -P 0xa5 32M 64k' && client "$uri" 'flush'
}
client_reads() { client "$uri" 'read -P 0x5a 0 4M' && client "$uri" 'read -P 0xa5 32M 64k' && client "$uri" 'read -P 0 4M 64k'; }
# The guest's last 64 writes lie on its disk without a gap, and none that it was told of is missing.
guest_writes_are_there() {
  local sector number least=4294967295 most=0 uri
  dvce snapshot create $disk@end && uri=$(dvce volume export $disk@end --socket) || return 1
  qemu-img convert -f raw -O raw "$uri" $log.disk || return 1
  for sector in {1..64}; do
    number=$(od -An -tu4 -j $((sector * 512)) -N 4 $log.disk | tr -d ' ')
    [ $((number % 64 + 1)) = $sector ] || { echo "sector $sector holds write $number"; return 1; }
    if [ "$number" -lt "$least" ]; then least=$number; fi
    if [ "$number" -gt "$most" ]; then most=$number; fi
  done
  echo "writes $least to $most; the guest was told of $(dots) times 16"
  [ $((most - least)) = 63 ] && [ "$most" -ge $((16 * ($(dots) - 8))) ]
}
start_guest() {
  dvce image import /story/boot.raw boot &&
    dvce vm create g --image boot --memory 32MiB --network none &&
    dvce vm start g
}
refused() { # removing is refused while a guest runs, and changes nothing
  if dpkg --remove dvce; then return 1; fi
  grep -q 'dvce down --stop-vms' $log && running
}
upgrade() {
  sed -i '$ a # changed by hand' /etc/dvce/dvce.yaml
  local agent blockd; agent=$(main_pid dvce-agent); blockd=$(main_pid dvce-blockd)
  dpkg -i /story/new.deb && running && changed dvce-agent "$agent" && changed dvce-blockd "$blockd"
}
away_ms() { # UNIT: from the begin of its last stop until it was ready again
  local left back
  left=$(systemctl show -p ActiveExitTimestampMonotonic --value "$1")
  back=$(systemctl show -p ActiveEnterTimestampMonotonic --value "$1")
  echo $(((back - left) / 1000))
}
new_version() {
  local text; text=$(dvce status -o json | tr -d ' \n')
  echo "$text"
  [ "$(dpkg-query -W -f '${Version}' dvce)" = "$(cat /story/new-version)" ] &&
    [ "$(grep -o "\"$(cat /story/new-version)\"" <<<"$text" | wc -l)" = 2 ] && dvce --version
}
kept_conffile() { grep 'changed by hand' /etc/dvce/dvce.yaml; }
remove() {
  dpkg --remove dvce && ! pgrep -f /usr/lib/dvce && ! systemctl is-active dvce-agent dvce-blockd dvce-agent.socket &&
    [ -d $data/store ] && [ -f /etc/dvce/dvce.yaml ] && [ ! -e /usr/bin/dvce ]
}
comes_back() { dpkg -i /story/new.deb && running && dvce volume show $disk && client_reads; }
purge_keeps() {
  dpkg --purge dvce && [ -d $data/store ] && [ ! -e /etc/dvce ] && [ ! -e /etc/default/dvce ] && grep -q "rm -rf $data" $log
}
purge_all() { dpkg -i /story/new.deb && DVCE_PURGE_DATA=yes dpkg --purge dvce && [ ! -e $data ]; }

step 'installs, and the services run' eval 'dpkg -i /story/old.deb && running'
step 'units are hardened and say their state' hardened
step 'the agent starts no second blockd' one_blockd
step 'the API is open to its group alone' api_by_group
step 'the journal knows priorities' journal_has_priorities
step 'owners and modes are as documented' owners_and_modes
step 'units name only what exists' units_name_what_exists
step 'the settings have a schema' settings_have_a_schema
step 'a volume is made' dvce volume create /v --size 64MiB
step 'a client writes over NBD' client_writes
step 'a guest starts' start_guest
step 'the guest writes' writes_on
guest=$(guest_pid)
step 'an agent without signs of life is started again' stopped_is_restarted dvce-agent
step 'the guest did not notice the agent' eval 'same_guest && writes_on'
step 'a killed agent is started again' killed_is_restarted dvce-agent
step 'the guest did not notice that either' eval 'same_guest && writes_on'
step 'a killed blockd is started again' killed_is_restarted dvce-blockd
step 'the guest waited and writes on' eval 'same_guest && writes_on'
step 'what the client wrote survived the kill' client_reads
step 'owners and modes are still as documented' owners_and_modes
step 'a blockd without signs of life is started again' stopped_is_restarted dvce-blockd
step 'the guest waited again and writes on' eval 'same_guest && writes_on'
step 'removing is refused under a running guest' refused
step 'upgrades to a higher version' upgrade
echo "blockd was away for $(away_ms dvce-blockd) ms, the agent for $(away_ms dvce-agent) ms"
step 'the guest writes on through the upgrade' eval 'same_guest && writes_on'
step 'what the client wrote survived the upgrade' client_reads
step 'agent and blockd are the new ones' new_version
step 'what was changed in /etc is kept' kept_conffile
step 'the guest stops' dvce vm stop g --force
step 'the writes of the guest are all there' guest_writes_are_there
step 'removes, and keeps data and configuration' remove
step 'installed again it has its volumes' comes_back
step 'purging keeps the volumes' purge_keeps
step 'purging with DVCE_PURGE_DATA=yes keeps nothing' purge_all
if [ $failed != 0 ]; then journalctl --no-pager -u dvce-agent -u dvce-blockd -n 60 -o short-monotonic | cut -c1-300; fi
echo '@ end'

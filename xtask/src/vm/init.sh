#!/bin/sh
# Runs in the emulated machine, as its first process: mounts, loads modules, runs the parts that are asked for, and
# says of each how it ended.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp TERM=dumb
export HA_BPF_DIR=/ha/bpf HA_BIN_DIR=/ha/bin CI=1 HA_PATIENCE=10
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /tmp /etc
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
ulimit -l unlimited
ulimit -n 65536
for module in virtio_pci virtio_net veth bridge tun macvlan sch_ingress cls_bpf nf_tables nf_tables_set nft_counter \
	nft_meta_bridge; do
	modprobe $module 2>/dev/null
done
ip link set lo up
echo "VM-KERNEL $(uname -r)"

agent() {
	mkdir -p /tmp/node/state /tmp/node/run
	ip link set eth0 up
	ip addr add 10.9.0.11/24 dev eth0
	/ha/bin/ha-agent keygen /tmp/node/pair.key
	cat > /tmp/node/ha-agent.yaml <<END
version: 1
node:
  name: lb1
  mode: first
  key_file: /tmp/node/pair.key
  state_dir: /tmp/node/state
  run_dir: /tmp/node/run
  interfaces:
    - { name: front, device: eth0, address: 10.9.0.11/24, partner: 10.9.0.12, ha_checks: true }
ha:
  virtual_id: 9
  advertisement_interval: 1s
  timeout: 3s
  multicast_interface: front
shared_addresses:
  - { interface: front, address: 10.9.0.100/24 }
virtual_services:
  - name: web
    address: 10.9.0.100
    port: 80
    protocol: tcp
    forwarding: full_nat
    health: { type: tcp, interval: 1s, timeout: 900ms, rise: 1, fall: 3 }
    real_servers:
      - { address: 10.9.0.21, port: 8080, weight: 1 }
END
	/ha/bin/ha-agent run -f /tmp/node/ha-agent.yaml > /tmp/node/log 2>&1
}

# The agent must end by itself, with the kernel it would need.
refusal() {
	agent
	cat /tmp/node/log
	grep -q 'is too old: the data plane needs' /tmp/node/log
}

# Some age what is in the tables, and nothing can be older than the machine.
fixtures() {
	while [ "$(cut -d. -f1 /proc/uptime)" -lt 100 ]; do
		sleep 1
	done
	/ha/bin/bpf_fixtures "$(cat /case)" --skip host:: --skip budget --color never
}

# Times that an emulated machine can keep.
failover() {
	/ha/bin/ha-chaos --seed 1 --only power-off --only kill --only failover --faults 5 --minutes 30 --connections 40 \
		--interval 500 --timeout 3000 --output /tmp/chaos && return
	# The machine and all that is in it is gone afterwards.
	find /tmp -name agent.log | while read -r log; do
		echo "$log:"
		tail -n 25 "$log"
	done
	return 1
}

# The guest's own network card, with as many queues as processors; client and real server are outside.
native() {
	agent &
	agent=$!
	for _ in $(seq 60); do
		kill -0 $agent 2> /dev/null || break
		/ha/bin/ha-agent services --json -f /tmp/node/ha-agent.yaml 2> /dev/null | grep -q '"state": *"up"' && break
		sleep 1
	done
	if ! kill -0 $agent 2> /dev/null; then
		cat /tmp/node/log
		return 1
	fi
	ls /sys/class/net/eth0/queues
	/ha/bin/ha-agent status --json -f /tmp/node/ha-agent.yaml > /tmp/node/status
	grep -o '"xdp_mode": *"[a-z]*"' /tmp/node/status
	grep -q '"xdp_mode": *"native"' /tmp/node/status || { cat /tmp/node/log; return 1; }
	# The client outside begins as soon as it is answered, and ends by saying so on the port below.
	timeout 300 nc -l -p 9 > /tmp/node/client
	cat /tmp/node/client
	grep virtio /proc/interrupts
	/ha/bin/ha-agent counters -f /tmp/node/ha-agent.yaml
	grep -q '^200 of 200' /tmp/node/client || return 1
	# Packets came in by more than one queue.
	test "$(grep 'virtio.*-input' /proc/interrupts | awk '{ n = 0; for (i = 2; i <= 3; i++) n += $i; if (n > 20) print }' | wc -l)" -ge 2
}

for part in $(cat /parts); do
	echo "VM-BEGIN $part"
	$part
	echo "VM-END $part $?"
done
sync
poweroff -f

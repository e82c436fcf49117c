# Runs in a network namespace of its own, with the seconds the machine may take, a kernel and a file system: the
# emulator, and behind the guest's network card a real server and a client. Nothing may outlive it: no daemons.
set -u
seconds=$1 kernel=$2 archive=$3
ip link set lo up
ip tuntap add dev guest mode tap multi_queue
ip addr add 10.9.0.254/24 dev guest
ip addr add 10.9.0.21/24 dev guest
ip link set guest up
site=$(mktemp -d)
echo served > "$site/index.html"
busybox httpd -f -p 10.9.0.21:8080 -h "$site" &
server=$!

client() {
	until busybox timeout 5 busybox wget -q -O - http://10.9.0.100/ > /dev/null 2>&1; do
		sleep 1
	done
	served=0
	for _ in $(seq 200); do
		[ "$(busybox timeout 10 busybox wget -q -O - http://10.9.0.100/ 2>/dev/null)" = served ] && served=$((served + 1))
	done
	echo "$served of 200 connections were served" | busybox timeout 30 busybox nc 10.9.0.11 9
}
client &
asking=$!

# Without offloads that a native program could not see through.
timeout "$seconds" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 6144 -nographic -no-reboot \
	-kernel "$kernel" -initrd "$archive" -append "console=ttyS0 panic=-1 quiet" \
	-netdev tap,id=guest,ifname=guest,queues=4,script=no,downscript=no,vhost=off \
	-device virtio-net-pci,netdev=guest,mq=on,vectors=10,csum=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off
kill "$server" "$asking" 2> /dev/null
wait
rm -r "$site"

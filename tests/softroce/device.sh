# Sourced in the guest: gives it an RDMA device, unless there is one. DSMEM_SOFTROCE_HOST is the guest's number where there
# are two: the device is on the link between them then, and its address is 10.1.0.NUMBER.
ulimit -l unlimited
if [ -z "$(ls /sys/class/infiniband 2>/dev/null)" ]; then
    modprobe rdma_rxe
    ip link set lo up
    export netdev=lo
    address=10.0.0.1
    if [ -n "${DSMEM_SOFTROCE_HOST-}" ]; then
        modprobe virtio_net
        udevadm settle # it gives the device another name
        until netdev=$(ls /sys/class/net | grep -v '^lo$') && ip link set "$netdev" up; do sleep 0.1; done
        address=10.1.0.$DSMEM_SOFTROCE_HOST
    fi
    ip addr add "$address/24" dev "$netdev"
    rdma link add rxe0 type rxe netdev "$netdev"
    # Every process that uses verbs loads all providers that it is told of, one second through 9p: one is enough here.
    mount -t tmpfs none /etc/libibverbs.d
    echo "driver rxe" >/etc/libibverbs.d/rxe.driver
    # What is left to these threads of the kernel is delivered by no other thread, so they go before benches that spin with a
    # real-time priority.
    for thread in $(pgrep ksoftirqd); do
        chrt --fifo --pid 2 "$thread"
    done
fi

# What is measured. shellcheck shell=bash disable=SC2034

all_scenarios=(plain full connections 1k 100k post tls tls-new tls-resumed h2 grpc websocket tcp tcp-new udp idle idle-tls idle-h2)

# describe SCENARIO: sets what the other parts ask for.
#   front        what clients speak to the proxy: http, https (HTTP/1.1 and HTTP/2), tcp, udp
#   behind       what the proxy speaks to the server: http, h2c, tcp, udp
#   server       who answers there: nginx, or what the gauge serves
#   load         who asks: wrk or oha, h2load, the gauge; hold opens connections and leaves them alone
#   unit, units  what CPU and rate are counted by
#   connections  how many at once
#   path         what they ask for
describe() {
    front=http behind=http server=nginx load=$generator unit=request connections=64 path=/
    case $1 in
    plain | full) ;;
    connections) connections=2000 ;;
    1k | 100k) path=/$1 ;;
    post) path=/post ;;
    tls) front=https ;;
    tls-new | tls-resumed) front=https load=gauge unit=connection ;;
    h2) front=https load=h2load connections=8 ;;
    grpc) front=https behind=h2c server=grpc load=h2load unit=call connections=8 path=/compare.Echo/Say ;;
    websocket) server=websocket load=gauge unit=message ;;
    tcp) front=tcp behind=tcp server=stream load=gauge unit=MiB connections=8 ;;
    tcp-new) front=tcp behind=tcp server=reply load=gauge unit=connection ;;
    udp) front=udp behind=udp server=datagrams load=gauge unit=datagram ;;
    idle) load=hold unit=connection connections=$held ;;
    idle-tls | idle-h2) front=https load=hold unit=connection connections=$held ;;
    *)
        echo "there is no scenario $1; there are: ${all_scenarios[*]}" >&2
        exit 2
        ;;
    esac
    units=${unit}s
    [[ $unit != MiB ]] || units=MiB
}

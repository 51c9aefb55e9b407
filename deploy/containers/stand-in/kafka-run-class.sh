#!/bin/bash
# Kafka's programs behind one script: the name it is called under says which. Only those that we use are here.
case ${0##*/} in
    kafka-run-class.sh) main=$1; shift ;;
    kafka-server-start.sh) main=kafka.Kafka ;;
    kafka-topics.sh) main=org.apache.kafka.tools.TopicCommand ;;
    kafka-broker-api-versions.sh) main=org.apache.kafka.tools.BrokerApiVersionsCommand ;;
    *) echo "not in this stand-in: $0" >&2; exit 127 ;;
esac
if [ "$main" = kafka.Kafka ]; then
    log=log4j2.yaml memory="-Xmx1G -XX:+UseG1GC"
else
    log=tools-log4j2.yaml memory="-Xmx256M -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
fi
exec java ${KAFKA_HEAP_OPTS:-$memory} ${KAFKA_OPTS:-} -Dlog4j2.configurationFile="/etc/kafka/docker/$log" -cp '/opt/kafka/libs/*' "$main" "$@"

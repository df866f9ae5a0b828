///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION All tests of DifyExec; the last line is "N passed, N failed".
//SOURCES ../DifyExec.java
//SOURCES ServerTest.java
//SOURCES CommandTest.java
//DEPS org.junit.jupiter:junit-jupiter:6.1.0
//DEPS org.junit.platform:junit-platform-launcher:6.1.0
//DEPS org.wiremock:wiremock-standalone:3.13.2
//FILES golden/=golden/*
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED

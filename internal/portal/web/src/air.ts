import * as echarts from "echarts/core";

console.log(echarts.version);
